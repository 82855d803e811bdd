"""MMRL: published numbers, its rule for the classes of the training, what its second path is and is not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import naive
from clip import Texts
from tests.clip.small import difference, small_clip
from trainers import PromptedCLIP, PromptTrainer
from trainers.method import Batch
from trainers.mmrl import MMRL

from .family import write_checkpoint
from .world import CLASSNAMES, Make, batch, equal, learnable, losses, randomise, state, step


def rows(*numbers: list[float]) -> Tensor:
    return normalize(torch.tensor(numbers, dtype=torch.float64), dim=1)


def test_the_published_equations(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and mixed logits of two images and three classes, with the scale 10."""
    v, t, r = rows([1, 2, 2], [2, -1, 2]), rows([1, 0, 1], [0, 1, 1], [1, 1, 0]), rows([0, 1, 2], [2, 1, 1])
    v0, t0 = rows([1, 2, 1], [2, 0, 1]), rows([1, 0, 0.5], [0, 1, 0.5], [1, 0.5, 0])
    classifier = SimpleNamespace(
        is_trained_on_these=True,
        zeroshot=lambda: t0,
        encode_image=lambda image: v0,
        cosine_logits=lambda image, text: 10 * image @ text.t(),
    )
    monkeypatch.setattr(MMRL, "both", lambda *_: (v, r, t))
    method = make("MMRL", {"ALPHA": 0.7, "REG_WEIGHT": 0.5}).model.method
    terms = method.loss(classifier, Batch.of(v, torch.tensor([1, 0])))
    total = sum(term for name, term in terms.items() if name.endswith("_loss"))
    assert float(total) == pytest.approx(0.23978185535739976, rel=1e-9)
    mixed = [[6.8471141, 9.4457132, 5.8984308], [9.1977395, 3.3819666, 4.247992]]
    assert difference(method.logits(classifier, v), torch.tensor(mixed, dtype=torch.float64)) < 1e-7
    assert float(terms["acc"]) == 100


def both(trainer: PromptTrainer, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class logits, representation logits, and the mixture."""
    model = trainer.model
    first, second, text = model.method.both(model, image)
    logits = [model.cosine_logits(one, text) for one in (first, second)]
    return *logits, 0.7 * logits[0] + 0.3 * logits[1]


def test_new_classes_have_a_rule_of_their_own(make: Make) -> None:
    trainer, image = randomise(make("MMRL")), batch()[0]
    model = trainer.model.eval()
    with torch.no_grad():
        first, second, mixed = both(trainer, image)
        assert difference(first, second) > 0.1
        assert difference(model(image), mixed) < 1e-6
        model.set_classnames([*CLASSNAMES[:5], "sky"])
        assert difference(model(image)[:, :5], first[:, :5]) < 1e-5
        model.set_classnames(CLASSNAMES[:3])  # fewer are other classes, too
        assert difference(model(image), first[:, :3]) < 1e-5
        model.set_classnames(CLASSNAMES)
        assert difference(model(image), mixed) < 1e-6


def test_base_and_new_are_told_apart_by_the_checkpoint(make: Make, tmp_path: Path) -> None:
    """A run on the base classes, evaluated on them and on the new ones by other runs."""
    base, image = randomise(make("MMRL", None, "DATASET.SUBSAMPLE_CLASSES", "base")), batch()[0]
    base.save_model(0, str(tmp_path))
    with torch.no_grad():
        for which, expected in (("base", 2), ("new", 0)):
            trainer = make("MMRL", None, "DATASET.SUBSAMPLE_CLASSES", which)
            trainer.load_model(str(tmp_path), epoch=1)
            found = both(trainer, image)
            assert difference(trainer.model.eval()(image), found[expected]) < 1e-6


@pytest.mark.parametrize(("chosen", "index"), [("always", 2), ("never", 0)])
def test_the_rule_can_be_chosen(chosen: str, index: int, make: Make) -> None:
    trainer, image = randomise(make("MMRL", {"MIX": chosen})), batch()[0]
    with torch.no_grad():
        for names in (CLASSNAMES, ["sky", "red"]):
            trainer.model.set_classnames(names)
            assert difference(trainer.model(image), both(trainer, image)[index]) < 1e-6


def test_without_tokens_it_is_zero_shot_clip_but_for_a_factor(make: Make) -> None:
    """There is no second feature to mix in: new classes have its logits, those of the training ALPHA times them."""
    model, expected, image = make("MMRL", {"N_REP_TOKENS": 0}).model, make("ZeroshotCLIP").model, batch()[0]
    with torch.no_grad():
        assert difference(model(image), 0.7 * expected(image)) < 1e-6
        for one in (model, expected):
            one.set_classnames(["sky", *CLASSNAMES[2:]])
        assert difference(model(image), expected(image)) < 1e-6


def test_other_classes_cost_no_second_feature(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("MMRL").model
    model.set_classnames(["sky", "red"])
    monkeypatch.setattr(MMRL, "both", None)
    with torch.no_grad():
        assert model(batch()[0]).shape == (5, 2)


def test_tokens_stand_behind_the_first_rows_and_nothing_before_their_layer_is_changed(make: Make) -> None:
    """Each feature by the plain computation, whose tokens are in the second row and those behind it."""
    trainer, image = randomise(make("MMRL", {"FIRST_LAYER": 3})), batch()[0]
    method, clip = trainer.model.method, trainer.model.clip
    with torch.no_grad():
        plan = method.prompts().vision
        assert [*plan.layers] == [2] and plan.entry == 2
        own = naive.image_rows(clip, image, plan)
        first, second, _ = method.both(trainer.model, image)
        assert difference(first, normalize(own[:, 0] @ clip.visual.proj, dim=1)) < 1e-5
        assert difference(second, normalize(own[:, 1:6].mean(1) @ method.proj_rep, dim=1)) < 1e-5


def test_maps_start_as_copies_and_learn_apart(make: Make) -> None:
    trainer = make("MMRL")
    method = trainer.model.method
    method.backward(losses(trainer, *batch()))
    for maps in (method.compound_rep_tokens_r2tproj, method.compound_rep_tokens_r2vproj):
        first, second = maps
        assert torch.equal(first.weight, second.weight) and first.weight is not second.weight
        assert not torch.equal(first.weight.grad, second.weight.grad)


def test_the_texts_are_the_data_sets_own(make: Make) -> None:
    """Not a template of the method's: of each data set that it is tested on."""
    trainer = make("MMRL")
    assert trainer.model.texts.ids.equal(texts_of("a swatch of {}."))
    other = make("MMRL", None, "DATASET.TEMPLATE", "art of the {}.")
    assert other.model.texts.ids.equal(texts_of("art of the {}."))


def texts_of(template: str) -> Tensor:
    return Texts.from_strings([template.format(name.replace("_", " ")) for name in CLASSNAMES]).ids


def test_what_the_authors_files_hold_besides(make: Make, tmp_path: Path) -> None:
    trainer = randomise(make("MMRL"))
    weights = {key: value.detach().clone() for key, value in learnable(trainer).items()}
    embedded = {"representation_learner.prompt_embeddings": torch.zeros(6, 77, 128)}
    other = make("MMRL")
    other.load_model(write_checkpoint(tmp_path, trainer, {**weights, **embedded}, epoch=3), epoch=3)
    assert equal(state(other), state(trainer))


def test_a_share_above_1_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match=r"TRAINER\.MMRL\.ALPHA must be 1 or less, but is 1\.5"):
        make("MMRL", {"ALPHA": 1.5})


def test_layers_that_an_encoder_does_not_have(make: Make) -> None:
    with pytest.raises(ValueError, match=r"TRAINER\.MMRL: prompt depth 4 exceeds the 3 layers"):
        make("MMRL", {"FIRST_LAYER": 4})


def test_a_run_is_resumed_with_its_rule(make: Make, tmp_path: Path) -> None:
    """The classes of the training are part of what is saved."""
    trainer = make("MMRL")
    step(trainer, *batch())
    trainer.save_model(0, str(tmp_path))
    saved = torch.load(tmp_path / MMRL.folder / "model.pth.tar-1", weights_only=True)
    assert [*saved["trained_on"]] == [name.replace("_", " ") for name in CLASSNAMES]


def test_encoders_of_other_depths_have_tokens_to_their_own_ends() -> None:
    clip = small_clip(vision_layers=5)
    method = MMRL(clip, MMRL.Options(FIRST_LAYER=2, REP_DIM=6))
    plans = method.prompts()
    assert [*plans.text.layers] == [1, 2] and [*plans.vision.layers] == [1, 2, 3, 4]
    classifier = PromptedCLIP(clip, method, ["red fox", "badger"]).eval()
    assert classifier(batch()[0]).shape == (5, 2)
