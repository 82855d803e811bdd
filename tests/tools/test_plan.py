"""The cost of a run: counts are exact, estimates follow from what was measured, FLOPs against a hand count."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import open_clip
import pytest
import torch

import configs
from clip import clip
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.selection import Selection
from dassl.ranks import current
from tools import cost, plan
from tools.dry_run import FirstOf
from tools.estimate import duration

from .small_world import small_world  # noqa: F401 - a fixture

ARGS = ("--trainer", "MaPLe", "DATASET.NUM_SHOTS", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "7")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "MEASURED_SECONDS", 0.01)
    monkeypatch.setattr(cost, "STEPS", 2)


@pytest.mark.usefixtures("small_world")
def test_cost_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    trainer, notes = cost.build(ARGS)
    found = cost.measure(trainer)
    assert not notes and "Loading" not in capsys.readouterr().out
    # MaPLe: 2 deep layers of 2 tokens, a coupling with bias for each; widths of the model
    text, vision = trainer.model.clip.transformer.width, trainer.model.clip.visual.width
    assert found.share.parameters == 2 * (2 * text + text * vision + vision)
    assert found.share.state == found.share.parameters  # momenta
    assert found.clip == sum(param.numel() for param in trainer.model.clip.parameters())
    assert (found.images, found.share.batch, found.steps, found.epochs, found.test_images) == (24, 7, 3, 5, 24)
    assert (found.checkpoints, found.evaluations) == (5, (0, 1))
    assert found.memory_gb > 0.1 and min(found.step_seconds, found.test_seconds, found.checkpoint_seconds) > 0


def test_everything_is_in_the_estimate() -> None:
    share = cost.Share(ranks=2, batch=8, classes=5, candidates=0, width=4, parameters=10, state=10)
    found = cost.Cost(
        share=share,
        clip=1000,
        images=100,
        steps=6,
        epochs=3,
        val_images=20,
        evaluations=(3, 1),
        test_images=50,
        checkpoints=4,
        start_seconds=1000,
        first_seconds=100,
        step_seconds=2,
        end_seconds=7,
        text_seconds=9,
        test_seconds=0.2,
        checkpoint_seconds=0.5,
        memory_gb=1,
        device="CPU",
    )
    assert found.train_seconds == 6 * 3 * 2 + 100 + 7
    # the texts: 9 s; of 20 images a rank sees 10: 2 s; of 50, 25: 5 s
    assert [found.evaluation(images) for images in (20, 50)] == pytest.approx([11, 14])
    assert found.seconds == pytest.approx(1000 + 143 + 3 * 11 + 14 + 2)
    rows = dict(found.rows())
    assert rows["one step"] == "2000.0 ms, data included: 8 images/s"
    assert rows["training images"] == "100, 16 a step" and rows["everything, estimated"] == "0:19:52"


@pytest.mark.parametrize("epochs, steps", [(1, 1), (3, 7), (7, 3), (4, 5)])
@pytest.mark.parametrize("every", [(1, 0), (0, 0), (3, 0), (1, 2), (2, 5), (0, 4), (0, 100)])
def test_looks_at_validation_images(epochs: int, steps: int, every: tuple[int, int]) -> None:
    """As the engine asks for them, step by step."""
    cfg = get_cfg_default()
    cfg.TEST.FINAL_MODEL, cfg.OPTIM.MAX_EPOCH = "best_val", epochs
    cfg.TEST.SELECT_EPOCHS, cfg.TEST.SELECT_STEPS = every
    selection = Selection(cfg)
    expected = 0
    for epoch in range(epochs):
        expected += sum(selection.after_step(epoch, done, steps) for done in range(1, steps + 1))
        expected += selection.after_epoch(epoch + 1)
    assert cost.selections(selection, epochs, steps) == expected >= 1
    cfg.TEST.FINAL_MODEL = "last_step"
    assert cost.selections(Selection(cfg), epochs, steps) == 0


@pytest.mark.usefixtures("small_world")
@pytest.mark.parametrize("method", [row.name for row in configs.methods().values() if row.training_free])
def test_a_fit_without_steps(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured, once; checkpoints and the looks of a selection count, steps do not."""
    made = TRAINER_REGISTRY.get(method).method
    done, fit = [], made.end_epoch
    monkeypatch.setattr(made, "end_epoch", lambda *args: (done.append(args[1:3]), time.sleep(0.3), fit(*args)))
    selecting = ("TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", "3", "TEST.SELECT_EPOCHS", "2")
    found = cost.plan(("--trainer", method, "DATALOADER.FEATURE_STORE", "", *selecting))
    assert done == [(3, 3)] and 0.3 < found.end_seconds == found.train_seconds < found.seconds
    assert (found.steps, found.epochs, found.checkpoints, found.evaluations) == (0, 3, 3, (2, 1))
    assert found.checkpoint_seconds > 0 and dict(found.rows())["fit or choice after the last epoch"] != "0.0 s"


def test_nothing_of_a_stand_in_is_kept(nothing_here: Path) -> None:
    argv = ("--trainer", "TipAdapter", "MODEL.BACKBONE.NAME", "ViT-B/16", "DATALOADER.FEATURE_STORE", "kept")
    argv = (*argv, "DATALOADER.NUM_WORKERS", "0", "TRAINER.TIPADAPTER.SEARCH", "False")
    found = cost.plan(argv, stated=cost.Stated(4, 8, 4, (40, 30)))
    assert found.notes.keys() == {"weights", "data"} and not [*nothing_here.iterdir()]


@pytest.mark.usefixtures("small_world")
def test_zero_shot_has_nothing_to_train() -> None:
    found = cost.plan(("--trainer", "ZeroshotCLIP"))
    assert (found.share.parameters, found.train_seconds, found.checkpoints) == (0, 0, 0)
    assert found.rows()


PRETRAINING = (
    *("configs/trainers/RPP/vit_b16_ep5_randaug2.yaml", "--dataset-config-file", "configs/datasets/imagenet_21k.yaml"),
    *("--classes", "40", "--images", "90", "--test-images", "30", "--photo", "40", "30"),
)
SMALL = (
    *("DATALOADER.TRAIN_X.BATCH_SIZE", "4", "DATALOADER.NUM_WORKERS", "0", "TRAINER.RPP.PREC", "fp32"),
    *("TRAINER.RPP.UPDATE_CLASS_NUM", "20", "DATALOADER.TEST.BATCH_SIZE", "10"),
)


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder, no downloads, and a ViT-B/16 that is 12 layers deep but narrow."""

    def no_download(*_: object) -> None:
        raise AssertionError("a plan downloads nothing")

    small = copy.deepcopy(open_clip.get_model_config("ViT-B-16"))
    small["embed_dim"], small["vision_cfg"]["width"], small["vision_cfg"]["patch_size"] = 32, 64, 56
    small["text_cfg"] |= {"width": 64, "heads": 1}
    monkeypatch.setattr(clip.open_clip, "get_model_config", lambda name: copy.deepcopy(small))
    monkeypatch.setattr(clip, "download", no_download)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pretraining_without_weights_or_data(nothing_here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main([*PRETRAINING, "--ranks", "3", *SMALL]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "weights random, in the shapes of ViT-B/16" in shown
    assert "stands in for ImageNet21K: 40 classes, 90 images, 30 test images, photos of 40 x 30" in shown
    # 90 // (3 * 4); 5 epochs; 5 training images of each class are held out to choose the epoch
    assert "7 x 5 epochs = 35" in shown and "choosing on 200 images, estimated 5 x" in shown
    assert "4 of 12 a step (4 views of each)" in shown
    # 40 (1 - (1 - 19 / 40) (1 - 1 / 40)^12) = 24.5 distinct classes, each rank a third
    assert "class texts of a rank 9 of 25 a step" in shown and "class texts of an evaluation 14 of 40" in shown
    assert not [*nothing_here.iterdir()]


def test_missing_data_of_a_known_data_set(nothing_here: Path) -> None:
    """As many classes, images and test images as published, at the asked number of shots."""
    argv = ["--trainer", "CoOp", "--config-file", "configs/trainers/CoOp/vit_b16_ep50_ctxv1.yaml"]
    argv += ["--dataset-config-file", "configs/datasets/dtd.yaml", "--root", str(nothing_here)]
    trainer, notes = cost.build([*argv, "DATASET.NUM_SHOTS", "2", "TRAINER.COOP.PREC", "fp32"])
    data = trainer.dm.dataset
    assert (data.num_classes, len(data.train_x), len(data.val), len(data.test)) == (47, 94, 94, 1692)
    assert "DescribableTextures" in notes["data"] and data.template == "{} texture."


@pytest.mark.usefixtures("nothing_here")
@pytest.mark.parametrize("sharding", [True, False])
def test_one_rank_has_a_ranks_work(sharding: bool) -> None:
    """Its block of each step's images, and its share of the texts of a step and of an evaluation, or all of them."""
    argv = [*plan.run_arguments(PRETRAINING[:3]), *SMALL, "MODEL.SHARD_CLASSES", str(sharding), "SEED", "1"]
    trainer, _ = cost.build(argv, 3, cost.Stated(40, 90, 30, (40, 30)))
    batch = trainer.parse_batch_train(next(iter(trainer.train_loader_x)))
    part = 3 if sharding else 1
    assert len(batch.image) == 4 * 4  # views
    assert len(batch.classes.index) > 20 and len(batch.classes.texts) == -(-len(batch.classes.index) // part)
    assert len(trainer.model.own_texts) == -(-40 // part)
    assert len(trainer.test_loader.sampler) == 30 and len([*trainer.test_loader.batch_sampler.sampler]) == 10
    assert trainer.model(batch.image[:2]).shape == (2, 40) and trainer.num_batches == 7
    found = cost.measure(trainer)
    assert (found.share.own_texts, found.share.texts) == (9 if sharding else 25, 25)
    assert current().size == 1


def test_the_other_ranks_have_labels_of_their_own() -> None:
    ranks = FirstOf(3)
    ranks.classes = 1000
    labels, own = ranks.join(torch.tensor([1, 1, 999]), 3)
    assert labels[own].tolist() == [1, 1, 999] and len(labels) == 9 and int(labels.max()) < 1000
    assert labels[3] == labels[4] != labels[6] == labels[7]  # two views of one image stay two of one
    assert len(labels.unique()) == 6


def test_passes_of_a_step(nothing_here: Path) -> None:
    """The images of a step that two ranks have not room for at once."""
    argv = [*plan.run_arguments(PRETRAINING[:3]), *SMALL, "OPTIM.GLOBAL_BATCH", "24"]
    found = cost.plan(argv, 2, cost.Stated(40, 90, 30, (40, 30)))
    assert (found.share.batch, found.share.passes, found.share.global_batch, found.steps) == (12, 3, 24, 3)


@pytest.mark.usefixtures("small_world")
def test_texts_that_depend_on_the_image_are_not_shared() -> None:
    share = cost.share_of(cost.build(("--trainer", "CoCoOp"), 2)[0])
    assert share.own_texts == share.texts == 12
    assert cost.share_of(cost.build(("--trainer", "CoOp"), 2)[0]).own_texts == 6


BAD = {
    "no rank": (("--ranks", "0"), "--ranks must be 1 or more, but is 0"),
    "more ranks than classes": (("--ranks", "25", "--classes", "20"), "25 processes cannot share 20 classes"),
    "more ranks than images": (("--ranks", "91"), "91 processes cannot share 90 images"),
    "no class": (("--classes", "0"), "--classes 0"),
    "a photo without a size": (("--photo", "0", "10"), "--photo"),
    "more candidates than classes": (("TRAINER.RPP.UPDATE_CLASS_NUM", "50"), "from 2 to 41"),
}


@pytest.mark.usefixtures("nothing_here")
@pytest.mark.parametrize("words, reason", BAD.values(), ids=BAD)
def test_bad_input(words: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags, pairs = (words, ()) if words[0].startswith("--") else ((), words)
    assert plan.main([*PRETRAINING, *flags, *SMALL, *pairs]) == 2
    told = capsys.readouterr().err.strip()
    assert reason in told and "\n" not in told


@pytest.mark.usefixtures("nothing_here")
def test_missing_data_of_unknown_size(capsys: pytest.CaptureFixture[str]) -> None:
    config = "configs/trainers/CoOp/tiny.yaml"
    assert plan.main([config, "DATASET.NAME", "Folder", "DATASET.PATH", "/no/photos"]) == 2
    told = capsys.readouterr().err
    assert "/no/photos does not exist" in told and "give --classes, --images, --test-images, to plan" in told


@pytest.mark.usefixtures("nothing_here")
def test_data_of_unknown_size(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--trainer", "RPP", "--stand-in", "--images", "5"]
    assert plan.main(words) == 2
    assert "give --classes, --test-images" in capsys.readouterr().err


def test_a_config_tells_its_trainer() -> None:
    config = "configs/trainers/MaPLe/tiny.yaml"
    assert plan.run_arguments([config, "SEED", "3"]) == ["--config-file", config, "--trainer", "MaPLe", "SEED", "3"]
    assert plan.run_arguments(["--trainer", "RPP"]) == ["--trainer", "RPP"]


def test_flops_of_a_linear_layer() -> None:
    layer = torch.nn.Linear(300, 200, bias=False)
    assert cost.gigaflops(lambda: layer(torch.ones(10, 300))) == pytest.approx(2 * 10 * 300 * 200 / 1e9)


@pytest.mark.usefixtures("small_world")
def test_complexity_counts_the_texts_once() -> None:
    row = cost.complexity(cost.build(("--trainer", "CoOp"))[0])
    both, image = float(row["GFLOPs, texts and an image"]), float(row["GFLOPs, an image"])
    visual = cost.build(("--trainer", "ZeroshotCLIP"))[0].model.clip.visual
    rows = 1 + visual.positional_embedding.shape[0] - 1
    blocks = visual.transformer.layers * 12 * visual.width**2 * rows * 2 / 1e9  # weights of a block: 12 D^2
    assert both > image and blocks * 0.8 < image < blocks * 1.3
    assert all(int(row[f"images/s, batch {n}"]) > 0 for n in (1, 4, 100))
    assert row["classes"] == 12


@pytest.mark.usefixtures("small_world")
def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main([*ARGS]) == 0
    assert "training, estimated" in capsys.readouterr().out
    assert plan.main(["--complexity", "--trainer", "CoOp"]) == 0
    assert "images/s, batch 100" in capsys.readouterr().out
    assert plan.main(["configs/trainers/CoOp/tiny.yaml", "DATASET.NUM_SHOTS", "1"]) == 0
    assert "training images" in capsys.readouterr().out
    assert plan.main(["--trainer", "MaPle"]) == 2
    assert "nearest: MaPLe" in capsys.readouterr().err


def test_durations() -> None:
    assert [duration(seconds) for seconds in (1.23, 61, 7322)] == ["1.2 s", "0:01:01", "2:02:02"]
