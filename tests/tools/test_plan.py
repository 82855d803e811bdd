"""The cost of a run: counts are exact, estimates follow from what was measured, FLOPs against a hand count."""

from __future__ import annotations

import pytest
import torch

from tools import cost, plan

from .small_world import small_world  # noqa: F401 - a fixture

ARGS = ("--trainer", "MaPLe", "DATASET.NUM_SHOTS", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "7")


@pytest.mark.usefixtures("small_world")
def test_cost_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = cost.build(ARGS)
    found = cost.measure(trainer)
    assert "Loading" not in capsys.readouterr().out
    # MaPLe: 2 deep layers of 2 tokens, a coupling with bias for each; widths of the model
    text, vision = trainer.model.clip.transformer.width, trainer.model.clip.visual.width
    assert found.trainable == 2 * (2 * text + text * vision + vision)
    assert found.clip == sum(param.numel() for param in trainer.model.clip.parameters())
    assert (found.images, found.batch_size, found.steps, found.epochs, found.test_images) == (24, 7, 3, 5, 24)
    assert found.train_seconds == pytest.approx(15 * found.step_seconds) and found.step_seconds > 0
    assert found.memory_gb > 0.1 and found.test_seconds > 0


@pytest.mark.usefixtures("small_world")
def test_zero_shot_has_nothing_to_train() -> None:
    found = cost.measure(cost.build(("--trainer", "ZeroshotCLIP")))
    assert (found.trainable, found.train_seconds) == (0, 0)


def test_a_config_tells_its_trainer() -> None:
    config = "configs/trainers/MaPLe/tiny.yaml"
    assert plan.run_arguments([config, "SEED", "3"]) == ["--config-file", config, "--trainer", "MaPLe", "SEED", "3"]
    assert plan.run_arguments(["--trainer", "RPP"]) == ["--trainer", "RPP"]


def test_flops_of_a_linear_layer() -> None:
    layer = torch.nn.Linear(300, 200, bias=False)
    assert cost.gigaflops(lambda: layer(torch.ones(10, 300))) == pytest.approx(2 * 10 * 300 * 200 / 1e9)


@pytest.mark.usefixtures("small_world")
def test_complexity_counts_the_texts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "MEASURED_SECONDS", 0.05)
    row = cost.complexity(cost.build(("--trainer", "CoOp")))
    both, image = float(row["GFLOPs, texts and an image"]), float(row["GFLOPs, an image"])
    visual = cost.build(("--trainer", "ZeroshotCLIP")).model.clip.visual
    rows = 1 + visual.positional_embedding.shape[0] - 1
    blocks = visual.transformer.layers * 12 * visual.width**2 * rows * 2 / 1e9  # weights of a block: 12 D^2
    assert both > image and blocks * 0.8 < image < blocks * 1.3
    assert all(int(row[f"images/s, batch {n}"]) > 0 for n in (1, 4, 100))
    assert row["classes"] == 12


@pytest.mark.usefixtures("small_world")
def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cost, "MEASURED_SECONDS", 0.01)
    assert plan.main([*ARGS]) == 0
    assert "training, estimated" in capsys.readouterr().out
    assert plan.main(["--complexity", "--trainer", "CoOp"]) == 0
    assert "images/s, batch 100" in capsys.readouterr().out
    assert plan.main(["configs/trainers/CoOp/tiny.yaml", "DATASET.NUM_SHOTS", "1"]) == 0
    assert "training images" in capsys.readouterr().out
    assert plan.main(["--trainer", "MaPle"]) == 2
    assert "nearest: MaPLe" in capsys.readouterr().err


def test_durations() -> None:
    assert [cost.duration(seconds) for seconds in (1.23, 61, 7322)] == ["1.2 s", "0:01:01", "2:02:02"]
