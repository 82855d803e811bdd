"""What every method does alike: learn, save, load, resume, in each precision; and files that do not fit."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path

import pytest
import torch

from dassl.engine import TRAINER_REGISTRY
from tests.clip.small import LAYERS, VISION_WIDTH, difference, small_clip
from trainers.base import PromptTrainer

from .family import write_checkpoint
from .world import CLASSNAMES, METHODS, TEXT_ONLY, Make, batch, maker, randomise, save_clip, step

METHOD = pytest.mark.parametrize("method", METHODS)
TEXT_WIDTH, EMBED = 128, 64


def state(trainer: PromptTrainer) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in trainer.model.learner.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@METHOD
def test_loss_falls_on_a_fixed_batch(method: str, make: Make) -> None:
    """POMP draws other classes every step, so all of them are drawn here."""
    trainer = make(method, {"UPDATE_CLASS_NUM": 7} if method == "POMP" else {}, "OPTIM.LR", 0.05)
    losses = [step(trainer, *batch()) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def documented_keys(method: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the field's checkpoints, for the settings in ``METHODS``."""
    block = "encoder.transformer.resblocks"
    ctx = "prompt_learner.ctx"
    vision = {"image_encoder.VPT": (3, VISION_WIDTH), f"image_{block}.1.VPT_shallow": (3, VISION_WIDTH)}
    maps = {"weight": (VISION_WIDTH, TEXT_WIDTH), "bias": (VISION_WIDTH,)}
    return {
        "CoOp": {"ctx": (3, TEXT_WIDTH)},
        "POMP": {"ctx": (2, TEXT_WIDTH)},
        "CoCoOp": {
            "ctx": (2, TEXT_WIDTH),
            "meta_net.linear1.weight": (EMBED // 16, EMBED),
            "meta_net.linear1.bias": (EMBED // 16,),
            "meta_net.linear2.weight": (TEXT_WIDTH, EMBED // 16),
            "meta_net.linear2.bias": (TEXT_WIDTH,),
        },
        "VPT": vision,
        "IVLP": {
            ctx: (2, TEXT_WIDTH),
            f"text_{block}.1.VPT_shallow": (2, TEXT_WIDTH),
            **vision,
            f"image_{block}.2.VPT_shallow": (3, VISION_WIDTH),
        },
        "MaPLe": {
            ctx: (2, TEXT_WIDTH),
            **{f"prompt_learner.proj.{part}": shape for part, shape in maps.items()},
            "prompt_learner.compound_prompts_text.0": (2, TEXT_WIDTH),
            **{f"prompt_learner.compound_prompt_projections.0.{part}": shape for part, shape in maps.items()},
        },
        "RPP": {
            f"{encoder}.{view}.{layer}": shape
            for encoder, shape in (("text", (2, TEXT_WIDTH)), ("vision", (3, VISION_WIDTH)))
            for view in ("query", "key", "value")
            for layer in (0, 1)
        },
    }[method]


FOLDERS = {"MaPLe": "MultiModalPromptLearner", "IVLP": "VLPromptLearner", "RPP": "UnsharedPromptLearner"}


@METHOD
def test_save_and_load(method: str, make: Make, tmp_path: Path) -> None:
    """The documented keys and nothing else; the same logits, bit for bit."""
    trainer = make(method)
    step(trainer, *batch())
    trainer.save_model(0, str(tmp_path))
    path = tmp_path / FOLDERS.get(method, "prompt_learner") / "model.pth.tar-1"
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert {key: tuple(value.shape) for key, value in saved.items()} == documented_keys(method)
    assert all(value.dtype == torch.float32 for value in saved.values())
    other = randomise(make(method))
    other.load_model(str(tmp_path), epoch=1)
    with torch.no_grad():
        assert torch.equal(other.model(batch()[0]), trainer.model(batch()[0]))
    assert other.epochs_done == 1


@METHOD
def test_checkpoint_serves_another_class_list(method: str, make: Make, tmp_path: Path) -> None:
    """Learned on the base classes, evaluated on the new ones."""
    base = randomise(make(method, None, "DATASET.SUBSAMPLE_CLASSES", "base"))
    base.save_model(0, str(tmp_path))
    new = make(method, None, "DATASET.SUBSAMPLE_CLASSES", "new")
    new.load_model(str(tmp_path), epoch=1)
    assert base.classnames == CLASSNAMES[:3] and new.classnames == CLASSNAMES[3:]
    both = make(method)
    both.load_model(str(tmp_path), epoch=1)
    with torch.no_grad():
        joined = torch.cat([trainer.model(batch()[0]) for trainer in (base, new)], dim=1)
        assert difference(both.model(batch()[0]), joined) < 1e-5


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
@pytest.mark.parametrize(("precision", "bound"), [("fp16", 0.01), ("bf16", 0.05), ("amp", 0.05)])
def test_precisions_agree(method: str, precision: str, bound: float, make: Make) -> None:
    """The first loss within the bound of fp32's; prompts and optimiser state are fp32 in all."""
    exact, trainer = make(method), make(method, {"PREC": precision})
    trainer.model.learner.load_state_dict(exact.model.learner.state_dict())
    losses = []
    for one in (exact, trainer):
        torch.manual_seed(0)
        losses.append(step(one, *batch()))
    assert math.isfinite(losses[1]) and losses[1] == pytest.approx(losses[0], rel=bound)
    assert all(p.dtype == torch.float32 for p in trainer.model.learner.parameters())
    buffers = [s["momentum_buffer"] for s in trainer.optim.state.values()]
    assert buffers and all(b.dtype == torch.float32 and b.isfinite().all() for b in buffers)
    half = {"fp16": torch.float16, "bf16": torch.bfloat16, "amp": torch.float32}[precision]
    assert trainer.model.clip.dtype == half
    with torch.no_grad():
        assert trainer.model_inference(batch()[0]).isfinite().all()


def test_unknown_precision(make: Make) -> None:
    with pytest.raises(ValueError, match=r"TRAINER.COOP.PREC must be one of fp32, fp16, bf16, amp, got 'half'"):
        make("CoOp", {"PREC": "half"})


# Backbones


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Widths in ViT-L/14's ratio, 768 to 1024."""
    sizes = {"transformer_width": 192, "transformer_heads": 3, "vision_width": 256, "embed_dim": 192}
    return save_clip(tmp_path_factory.mktemp("weights"), "wide", **sizes)


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    sizes = {"vision_layers": (1, 1, 1, 1), "vision_width": 16, "vision_patch_size": None}
    return save_clip(tmp_path_factory.mktemp("weights"), "resnet", **sizes)


@METHOD
def test_widths_come_from_the_model(method: str, make: Make, wide: str) -> None:
    trainer = make(method, None, "MODEL.BACKBONE.PATH", wide)
    assert step(trainer, *batch()) > 0
    widths = {p.shape[-1] for p in trainer.model.learner.parameters() if p.dim() == 2}
    assert widths & {192, 256}
    assert all(p.grad.any() for p in trainer.model.learner.parameters() if p.requires_grad)


@pytest.mark.parametrize("method", TEXT_ONLY)
def test_resnet_with_text_prompts(method: str, make: Make, resnet: str) -> None:
    """Its batch norm keeps its statistics."""
    trainer = make(method, {"UPDATE_CLASS_NUM": 7} if method == "POMP" else {}, "MODEL.BACKBONE.PATH", resnet)
    before = {key: value.clone() for key, value in trainer.model.clip.visual.state_dict().items()}
    trainer.model.train()
    losses = [step(trainer, *batch()) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert equal(before, dict(trainer.model.clip.visual.state_dict()))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in TEXT_ONLY])
def test_resnet_takes_no_visual_prompts(method: str, make: Make, resnet: str) -> None:
    with pytest.raises(ValueError, match=f"{method} puts prompts into a ViT, but .* is a ResNet; use CoOp"):
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


# Files


@METHOD
def test_half_precision_files_of_the_field(method: str, make: Make, tmp_path: Path) -> None:
    """Their buffers, frozen CLIP and pickled objects are passed over; numbers become fp32."""
    trainer = randomise(make(method))
    weights = {key: value.half() for key, value in state(trainer).items()}
    folder = write_checkpoint(tmp_path, trainer, weights, epoch=3)
    other = make(method)
    other.load_model(folder, epoch=3)
    assert equal(state(other), {key: value.float() for key, value in weights.items()})


def test_stripped_file_of_pretrained_prompts(make: Make, tmp_path: Path) -> None:
    """POMP's published prompts: the tensor alone, no epoch, no optimiser."""
    ctx = torch.randn(2, TEXT_WIDTH)
    torch.save({"state_dict": {"ctx": ctx}}, tmp_path / "prompt.pth.tar")
    trainer = make("POMP", None, "TRAINER.INIT_PROMPTS", str(tmp_path / "prompt.pth.tar"))
    assert torch.equal(trainer.model.learner.ctx, ctx)


@pytest.mark.parametrize("method", ["MaPLe", "RPP"])
def test_training_starts_from_given_prompts(method: str, make: Make, tmp_path: Path) -> None:
    pretrained = randomise(make(method))
    pretrained.save_model(0, str(tmp_path))
    tuned = make(method, None, "TRAINER.INIT_PROMPTS", str(tmp_path))
    assert equal(state(tuned), state(pretrained))
    step(tuned, *batch())
    assert not equal(state(tuned), state(pretrained))


def test_best_then_newest_checkpoint_of_a_run(make: Make, tmp_path: Path) -> None:
    trainer = make("CoOp")
    kept = {}
    for epoch in (8, 9):  # model.pth.tar-10 comes after model.pth.tar-9, though not by the alphabet
        randomise(trainer).save_model(epoch, str(tmp_path))
        kept[epoch] = state(trainer)
    trainer.load_model(str(tmp_path))
    assert equal(state(trainer), kept[9])
    randomise(trainer).save_model(4, str(tmp_path), model_name="model-best.pth.tar")
    kept[4] = state(trainer)
    randomise(trainer).load_model(str(tmp_path))
    assert equal(state(trainer), kept[4])


def test_no_folder_means_no_loading(make: Make, capsys: pytest.CaptureFixture) -> None:
    trainer = make("CoOp")
    before = state(trainer)
    trainer.load_model("")
    assert equal(state(trainer), before)
    assert "load_model() is skipped" in capsys.readouterr().out


def test_missing_epoch(make: Make, tmp_path: Path) -> None:
    trainer = make("CoOp")
    trainer.save_model(1, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"model.pth.tar-7 .*model.pth.tar-2.*--load-epoch"):
        trainer.load_model(str(tmp_path), epoch=7)


def test_checkpoint_of_another_method(make: Make, tmp_path: Path) -> None:
    make("CoOp").save_model(0, str(tmp_path))
    with pytest.raises(ValueError, match=r"does not fit this method .*missing: meta_net.linear1.weight"):
        make("CoCoOp").load_model(str(tmp_path), epoch=1)
    make("CoCoOp").save_model(0, str(tmp_path))
    with pytest.raises(ValueError, match=r"does not fit this method .*surplus: meta_net"):
        make("CoOp", {"N_CTX": 2}).load_model(str(tmp_path), epoch=1)


def test_checkpoint_of_other_settings(make: Make, tmp_path: Path) -> None:
    make("MaPLe", {"N_CTX": 2}).save_model(0, str(tmp_path))
    trainer = make("MaPLe", {"N_CTX": 3})
    before = state(trainer)
    with pytest.raises(ValueError, match=r"another shape: prompt_learner.ctx \(2, 128\) instead of \(3, 128\)"):
        trainer.load_model(str(tmp_path), epoch=1)
    assert equal(state(trainer), before)


def test_truncated_checkpoint(make: Make, tmp_path: Path) -> None:
    trainer = make("CoOp")
    trainer.save_model(0, str(tmp_path))
    path = tmp_path / "prompt_learner" / "model.pth.tar-1"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"model.pth.tar-1.*truncated or not a checkpoint"):
        trainer.load_model(str(tmp_path), epoch=1)


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_checkpoint_is_executed(make: Make, tmp_path: Path) -> None:
    """The tensors beside the code are loaded; a bare pickle is refused."""
    trainer = make("CoOp")
    path = tmp_path / "file.pth"
    weights = {key: value + 1 for key, value in state(trainer).items()}
    torch.save({"state_dict": weights, "epoch": 1, "optimizer": Attack(tmp_path / "attacked")}, path)
    trainer.load_prompts(path)
    assert equal(state(trainer), weights)
    path.write_bytes(pickle.dumps(Attack(tmp_path / "attacked")))
    with pytest.raises(ValueError, match="truncated or not a checkpoint"):
        trainer.load_prompts(path)
    assert not (tmp_path / "attacked").exists()


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
