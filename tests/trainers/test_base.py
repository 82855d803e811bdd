"""What every method does alike: learn, resume, in each precision and on each backbone that suits it."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest
import torch

import configs
from dassl.config import load_yaml
from dassl.engine import TRAINER_REGISTRY
from tests.clip.small import LAYERS, difference, small_clip
from trainers import PromptTrainer

from .world import (
    METHODS,
    TEXT_ONLY,
    TRAINING_FREE,
    Make,
    batch,
    descended,
    equal,
    every_class,
    maker,
    method_class,
    randomise,
    save_clip,
    state,
    step,
    summary,
)

METHOD = pytest.mark.parametrize("method", METHODS)


@METHOD
def test_loss_falls_on_a_fixed_batch(method: str, make: Make) -> None:
    """Sampled losses are of other classes every step, so all of them are drawn here. Some learn at high rates only."""
    usual = load_yaml(configs.ROOT / "trainers" / method / "tiny.yaml")["OPTIM"]["LR"]
    trainer = make(method, every_class(method), "OPTIM.LR", usual if usual > 0.1 else 0.05)
    losses = [float(summary(trainer, *batch())[descended(method)]) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


@METHOD
def test_resumed_run_equals_an_uninterrupted_one(
    method: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(trainer: PromptTrainer) -> None:
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    settings = (None, "OPTIM.MAX_EPOCH", 2, "TEST.NO_TEST", True, "DATASET.NUM_SHOTS", 2)
    whole = make(method, *settings)
    whole.train()
    settings = (*settings, "OUTPUT_DIR", str(tmp_path / "interrupted"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TRAINER_REGISTRY.get(method), "before_epoch", interrupt)
        make(method, *settings).train()
    resumed = make(method, *settings)
    resumed.train()
    assert resumed.start_epoch == 1
    assert equal(state(resumed), state(whole))


@METHOD
@pytest.mark.parametrize(("precision", "bound"), [("fp16", 0.01), ("bf16", 0.05), ("amp", 0.05), ("amp_bf16", 0.05)])
def test_precisions_agree(method: str, precision: str, bound: float, make: Make) -> None:
    """The first loss within the bound of fp32's; prompts and optimiser state are fp32 in all."""
    exact, trainer = make(method), make(method, {"PREC": precision})
    trainer.model.method.load_state_dict(exact.model.method.state_dict())
    losses = []
    for one in (exact, trainer):
        torch.manual_seed(0)
        losses.append(step(one, *batch()))
    assert math.isfinite(losses[1]) and losses[1] == pytest.approx(losses[0], rel=bound)
    assert all(p.dtype == torch.float32 for p in trainer.model.method.parameters())
    buffers = [s["momentum_buffer"] for s in trainer.optim.state.values()]
    assert buffers and all(b.dtype == torch.float32 and b.isfinite().all() for b in buffers)
    half = {"fp16": torch.float16, "bf16": torch.bfloat16, "amp": torch.float32, "amp_bf16": torch.float32}[precision]
    assert trainer.model.clip.dtype == half
    with torch.no_grad():
        assert trainer.model_inference(batch()[0]).isfinite().all()


@pytest.mark.parametrize("method", ["CoOp", "RPP"])
def test_small_gradients_survive_fp16(method: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of a ten-thousandth: unscaled, most of its gradient would be below fp16's range."""
    gradients = []
    for precision in ("fp32", "fp16"):
        trainer = make(method, {"PREC": precision, **({"LAMBDA": 0.0} if method == "RPP" else {})})
        torch.manual_seed(0)
        randomise(trainer, 0.1)
        loss = trainer.model.method.loss
        small = lambda *args, loss=loss: {"ce_loss": 1e-4 * loss(*args)["ce_loss"]}  # noqa: E731
        monkeypatch.setattr(trainer.model.method, "loss", small)
        step(trainer, *batch())
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.method.parameters() if p.requires_grad]))
    assert difference(gradients[1], gradients[0]) < 0.02
    assert gradients[1].dtype == torch.float32


def test_the_first_loss_scale_overflows_for_no_method(make: Make) -> None:
    for method in METHODS:
        trainer = make(method, {"PREC": "fp16"})
        assert float(summary(trainer, *batch())["skipped"]) == 0


def test_overflow_skips_the_step_and_is_counted(make: Make) -> None:
    trainer = make("CoOp", {"PREC": "fp16"})
    trainer.batch_idx, trainer.num_batches = 0, 2
    images = dict(zip(("img", "label"), batch()))
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 2.0**40})
    before = state(trainer)
    assert float(trainer.forward_backward(images)["skipped"]) == 1
    assert equal(state(trainer), before)
    assert trainer.scaler.get_scale() == 2.0**39
    resumed = make("CoOp", {"PREC": "fp16"})
    resumed.load_run_state(trainer.run_state())
    assert resumed.scaler.get_scale() == 2.0**39
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 2.0**8})
    assert float(trainer.forward_backward(images)["skipped"]) == 0
    assert not equal(state(trainer), before)
    exact = make("CoOp")
    exact.batch_idx, exact.num_batches = 0, 2
    assert "skipped" not in exact.forward_backward(images)


def test_gradients_that_always_overflow_are_an_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the run would skip every step and end with the prompts it began with."""
    trainer = make("CoOp", {"PREC": "fp16"}, "OPTIM.MAX_EPOCH", 9)
    trainer.model.method.ctx.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(FloatingPointError, match=r"at every loss scale! epoch .* or TRAINER.COOP.PREC bf16 or fp32"):
        trainer.train()
    assert trainer.epoch < 8


def test_unknown_precision(make: Make) -> None:
    with pytest.raises(
        ValueError, match=r"TRAINER.COOP.PREC must be one of fp32, fp16, bf16, amp, amp_bf16, but is 'half'"
    ):
        make("CoOp", {"PREC": "half"})


# Backbones


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Widths in ViT-L/14's ratio, 768 to 1024."""
    sizes = {"transformer_width": 192, "transformer_heads": 3, "vision_width": 256, "embed_dim": 192}
    return save_clip(tmp_path_factory.mktemp("weights"), "wide", **sizes)


@METHOD
def test_widths_come_from_the_model(method: str, make: Make, wide: str) -> None:
    trainer = make(method, None, "MODEL.BACKBONE.PATH", wide)
    for _ in range(2):  # a factor of a product that starts at zero has its first gradient in the second step
        assert step(trainer, *batch()) > 0
    widths = {p.shape[-1] for p in trainer.model.method.parameters() if p.dim() >= 2}
    assert widths & {192, 256}
    assert all(p.grad.any() for p in trainer.model.method.parameters() if p.requires_grad)


@pytest.mark.parametrize("method", TEXT_ONLY)
def test_resnet_with_text_prompts(method: str, make: Make, resnet: str) -> None:
    """Its batch norm keeps its statistics. At a larger rate KgCoOp, whose term has a weight of 8, overshoots."""
    trainer = make(method, every_class(method), "MODEL.BACKBONE.PATH", resnet, "OPTIM.LR", 0.005)
    before = {key: value.clone() for key, value in trainer.model.clip.visual.state_dict().items()}
    trainer.model.train()
    losses = [step(trainer, *batch()) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert equal(before, dict(trainer.model.clip.visual.state_dict()))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in TEXT_ONLY])
def test_resnet_takes_no_visual_prompts(method: str, make: Make, resnet: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"{method_class(method).section()}: prompts in the image encoder need a ViT, but .* is a ResNet; choose",
    ):
        make(method, None, "MODEL.BACKBONE.PATH", resnet)


def test_language_only_prompts_work_on_a_resnet(make: Make, resnet: str) -> None:
    trainer = make("IVLP", {"PROMPT_DEPTH_VISION": 0}, "MODEL.BACKBONE.PATH", resnet)
    assert step(trainer, *batch()) > step(trainer, *batch())


@pytest.mark.parametrize(
    ("method", "key", "encoder"),
    [
        ("MaPLe", "PROMPT_DEPTH", "text"),
        ("VPT", "PROMPT_DEPTH_VISION", "vision"),
        ("IVLP", "PROMPT_DEPTH_TEXT", "text"),
        ("RPP", "PROMPT_DEPTH_VISION", "vision"),
    ],
)
def test_depth_exceeds_the_layers(method: str, key: str, encoder: str, make: Make) -> None:
    message = f"prompt depth {LAYERS + 1} exceeds the {LAYERS} layers of the {encoder} encoder"
    with pytest.raises(ValueError, match=message):
        make(method, {key: LAYERS + 1})


def test_images_of_another_size(make: Make) -> None:
    with pytest.raises(ValueError, match=r"INPUT.SIZE is \(48, 48\), but .* takes \(32, 32\)"):
        make("CoOp", None, "INPUT.SIZE", (48, 48))


def test_own_images_are_first_classified_zero_shot(make: Make, capsys: pytest.CaptureFixture) -> None:
    """The printed number is ZeroshotCLIP's accuracy."""
    expected = make("ZeroshotCLIP").test()
    trainer = make("CoOp", None, "OPTIM.MAX_EPOCH", 1, "TEST.NO_TEST", True)
    trainer.dm.dataset.shows_zeroshot = True
    trainer.train()
    assert f'Zero-shot CLIP with "a swatch of {{}}.": {expected:.1f}% on the test images' in capsys.readouterr().out


def test_real_weights_files_are_read(backbone: str, tmp_path: Path) -> None:
    """Every other test copies a model in memory; this one goes by the file."""
    trainer = maker(backbone, tmp_path)("CoOp")
    expected = small_clip(context_length=24).state_dict()
    assert equal(dict(trainer.model.clip.state_dict()), dict(expected))


@pytest.mark.parametrize("method", TRAINING_FREE)
def test_a_run_without_steps_selects_its_epoch_and_hears_a_signal(
    method: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (TRAINING_FREE[method], "OPTIM.MAX_EPOCH", 2, "TEST.FINAL_MODEL", "best_val", "TEST.SELECT_EPOCHS", 0)
    trainer, end_epoch = make(method, *settings), method_class(method).end_epoch

    def interrupted(self: object, *args: object) -> None:
        end_epoch(self, *args)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(method_class(method), "end_epoch", interrupted)
        trainer.train()
    assert ended.value.code == 128 + signal.SIGTERM and len(trainer.record.history) == 1
    resumed = make(method, *settings)
    resumed.train()
    assert resumed.start_epoch == 1 and len(resumed.record.history) == 2
    assert resumed.record.results["val"]["accuracy"] == resumed.record.history[-1]["val_accuracy"]
