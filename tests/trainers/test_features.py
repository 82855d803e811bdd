"""Image features computed once: the same training, and refused where the features would change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.clip.small import difference

from .world import TEXT_ONLY, Make, batch, state

FIXED = ("INPUT.TRANSFORMS", ("normalize",), "OPTIM.MAX_EPOCH", 2, "TEST.NO_TEST", True)


@pytest.mark.parametrize("method", TEXT_ONLY)
def test_training_is_the_same(method: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order, sampling and weights; no step encodes an image."""
    plain = make(method, None, *FIXED, "OUTPUT_DIR", str(tmp_path / "plain"))
    plain.train()
    cached = make(method, None, *FIXED, "DATALOADER.CACHE_FEATURES", True)
    encode, step, seen, in_steps = cached.model.clip.visual.forward, cached.forward_backward, [], []

    def counted(batch: object) -> object:
        before, summary = len(seen), step(batch)
        in_steps.append(len(seen) - before)
        return summary

    monkeypatch.setattr(cached.model.clip.visual, "forward", lambda image: seen.append(len(image)) or encode(image))
    monkeypatch.setattr(cached, "forward_backward", counted)
    cached.train()
    assert in_steps == [0] * 6 and seen
    first, second = state(plain), state(cached)
    assert all(difference(second[key], first[key]) < 1e-4 for key in first)


def test_an_epoch_sees_one_of_the_kept_views(make: Make) -> None:
    """Of each image its own, drawn anew in every epoch by the run's seed."""
    options = ("DATALOADER.CACHE_FEATURES", True, "DATALOADER.FEATURE_VIEWS", 3, *FIXED[2:])
    trainers = [make("CoOp", None, *options) for _ in range(2)]
    for trainer in trainers:
        trainer.before_train()
    views = trainers[0].image_sets.features("train", 3)[0]
    views = views / views.norm(dim=-1, keepdim=True)
    dataset, seen = trainers[0].train_loader_x.dataset, []
    for epoch in range(2):
        for trainer in trainers:
            trainer.epoch = epoch
            trainer.seed_epoch()
        items = [dataset[index]["img"] for index in range(len(dataset))]
        assert all(
            torch.equal(one, trainers[1].train_loader_x.dataset[index]["img"]) for index, one in enumerate(items)
        )
        seen.append([int((views[:, index] - one).abs().sum(1).argmin()) for index, one in enumerate(items)])
        assert all(difference(one, views[view, index]) < 1e-5 for index, (one, view) in enumerate(zip(items, seen[-1])))
        assert {*seen[-1]} == {0, 1, 2}
    assert seen[0] != seen[1]


def test_features_pass_for_images(make: Make) -> None:
    model, image = make("CoOp").model, batch()[0]
    assert torch.equal(model(model.encode_image(image)), model(image))


@pytest.mark.parametrize(
    ("method", "settings", "opts", "message"),
    [
        ("CoOp", {}, (), "same view of an image in every epoch.* random_flip, random_resized_crop"),
        ("CoOp", {}, (*FIXED, "DATALOADER.K_TRANSFORMS", 2), "one view of an image, but 2 are wanted .K_TRANSFORMS."),
        ("IVLP", {}, FIXED, "puts prompts into it"),
        ("VPT", {}, FIXED, "puts prompts into it"),
        ("RPP", {"PROMPT_DEPTH_VISION": 0}, FIXED, "has a teacher that looks at the images"),
    ],
)
def test_refused_where_features_would_change(
    method: str, settings: dict, opts: tuple, message: str, make: Make
) -> None:
    with pytest.raises(ValueError, match=message):
        make(method, settings, *opts, "DATALOADER.CACHE_FEATURES", True).train()
