"""Checkpoints: the field's keys and files, other class lists, and what is said of files that do not fit."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from tests.clip.small import LAYERS, VISION_WIDTH, difference

from .family import write_checkpoint
from .world import CLASSNAMES, METHODS, Make, batch, equal, method_class, randomise, state, step

METHOD = pytest.mark.parametrize("method", METHODS)
TEXT_WIDTH, EMBED = 128, 64


LENGTHS = {"N_CTX_TEXT": 2, "N_CTX_VISION": 3, "PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 2}
DOCUMENTED = {
    "CoOp": {"N_CTX": 3, "CTX_INIT": ""},
    "POMP": {"N_CTX": 2, "CTX_INIT": ""},
    "CoCoOp": {"N_CTX": 2, "CTX_INIT": ""},
    "VPT": {"N_CTX_VISION": 3, "PROMPT_DEPTH_VISION": 2},
    "IVLP": {**LENGTHS, "PROMPT_DEPTH_VISION": 3},
    "PromptSRC": {**LENGTHS, "PROMPT_DEPTH_VISION": 3},
    "ProGrad": {"N_CTX": 3, "CTX_INIT": ""},
    "KgCoOp": {"N_CTX": 3, "CTX_INIT": ""},
    "TCP": {"N_CTX": 3, "LAYER": 2},
    "TaskRes": {},
    "ZSLP": {},
    "CLAP": {},
    "TipAdapterF": {},
    "CLIPAdapter": {},
    "MMRL": {"N_REP_TOKENS": 4, "REP_DIM": 7, "FIRST_LAYER": 2},
    "PromptKD": {"N_CTX_VISION": 3, "PROMPT_DEPTH_VISION": 2},
    "MaPLe": {"N_CTX": 2, "PROMPT_DEPTH": 2},
    "RPP": LENGTHS,
    "CLIPLoRA": {"RANK": 4},
    "MMA": {"ADAPTER_START": 2, "ADAPTER_END": 2, "ADAPTER_DIM": 8},
}


def documented_keys(method: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the field's checkpoints, for the settings in ``DOCUMENTED``."""
    block = "encoder.transformer.resblocks"
    ctx = "prompt_learner.ctx"
    vision = {"image_encoder.VPT": (3, VISION_WIDTH), f"image_{block}.1.VPT_shallow": (3, VISION_WIDTH)}
    maps = {"weight": (VISION_WIDTH, TEXT_WIDTH), "bias": (VISION_WIDTH,)}
    independent = {
        ctx: (2, TEXT_WIDTH),
        f"text_{block}.1.VPT_shallow": (2, TEXT_WIDTH),
        **vision,
        f"image_{block}.2.VPT_shallow": (3, VISION_WIDTH),
    }
    return {
        "CoOp": {"ctx": (3, TEXT_WIDTH)},
        "ProGrad": {"ctx": (3, TEXT_WIDTH)},
        "KgCoOp": {"ctx": (3, TEXT_WIDTH)},
        "CLIPAdapter": {"fc.0.weight": (EMBED // 4, EMBED), "fc.2.weight": (EMBED, EMBED // 4)},
        "TaskRes": {"residual": (6, EMBED)},
        "ZSLP": {"residual": (6, EMBED)},
        "CLAP": {"residual": (6, EMBED)},
        "TipAdapterF": {"keys": (24, EMBED), "label": (24,), "strength": (2,)},
        "TCP": {
            "ctx": (3, TEXT_WIDTH),
            "meta_net.linear1.weight": (EMBED // 4, EMBED),
            "meta_net.linear1.bias": (EMBED // 4,),
            "meta_net.linear2.weight": (3 * TEXT_WIDTH, EMBED // 4),
            "meta_net.linear2.bias": (3 * TEXT_WIDTH,),
        },
        "POMP": {"ctx": (2, TEXT_WIDTH)},
        "CoCoOp": {
            "ctx": (2, TEXT_WIDTH),
            "meta_net.linear1.weight": (EMBED // 16, EMBED),
            "meta_net.linear1.bias": (EMBED // 16,),
            "meta_net.linear2.weight": (TEXT_WIDTH, EMBED // 16),
            "meta_net.linear2.bias": (TEXT_WIDTH,),
        },
        "MMRL": {
            "representation_learner.compound_rep_tokens": (4, 7),
            **{
                f"representation_learner.compound_rep_tokens_r2{letter}proj.{layer}.{part}": shape
                for letter, width in (("t", TEXT_WIDTH), ("v", VISION_WIDTH))
                for layer in (0, 1)
                for part, shape in (("weight", (width, 7)), ("bias", (width,)))
            },
            "image_encoder.proj_rep": (VISION_WIDTH, EMBED),
        },
        "VPT": vision,
        "PromptKD": {
            **vision,
            "VPT_image_trans.conv1.0.weight": (EMBED, EMBED),
            **{f"VPT_image_trans.conv1.1.{part}": (EMBED,) for part in ("weight", "bias")},
            **{f"VPT_image_trans.conv1.1.running_{part}": (EMBED,) for part in ("mean", "var")},
            "VPT_image_trans.conv1.1.num_batches_tracked": (),
            "VPT_image_trans.conv1.3.weight": (EMBED, EMBED),
            "VPT_image_trans.conv1.3.bias": (EMBED,),
        },
        "IVLP": independent,
        "PromptSRC": independent,
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
        "CLIPLoRA": {
            f"{encoder}.{name}": shape
            for encoder, width in (("text", TEXT_WIDTH), ("vision", VISION_WIDTH))
            for name, shape in (("down", (LAYERS, 3, 4, width)), ("up", (LAYERS, 3, width, 4)))
        },
        "MMA": {
            f"{encoder}_adapter.2.{name}": shape
            for encoder, width in (("text", TEXT_WIDTH), ("visual", VISION_WIDTH), ("shared", 0))
            for name, shape in (
                {"down.0.weight": (8, width), "down.0.bias": (8,), "up.weight": (width, 8), "up.bias": (width,)}
                if width
                else {"0.weight": (8, 8), "0.bias": (8,)}
            ).items()
        },
    }[method]


FOLDERS = {
    "PromptKD": "VLPromptLearner",
    "CLIPAdapter": "clip_adapter",
    "ZSLP": "adapter",
    "CLAP": "adapter",
    "MMRL": "MultiModalRepresentationLearner",
    "MaPLe": "MultiModalPromptLearner",
    "IVLP": "VLPromptLearner",
    "PromptSRC": "VLPromptLearner",
    "RPP": "UnsharedPromptLearner",
    "MMA": "adapter_learner",
}


@pytest.mark.parametrize("method", DOCUMENTED)
def test_documented_keys(method: str, make: Make, tmp_path: Path) -> None:
    """These and nothing else, in the documented folder."""
    make(method, DOCUMENTED[method]).save_model(0, str(tmp_path))
    path = tmp_path / FOLDERS.get(method, "prompt_learner") / "model.pth.tar-1"
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert {key: tuple(value.shape) for key, value in saved.items()} == documented_keys(method)


@METHOD
def test_save_and_load(method: str, make: Make, tmp_path: Path) -> None:
    """The same logits, bit for bit; what is saved is fp32."""
    trainer = make(method)
    step(trainer, *batch())
    trainer.save_model(0, str(tmp_path))
    path = tmp_path / method_class(method).folder / "model.pth.tar-1"
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert saved.keys() == state(trainer).keys()
    assert all(value.dtype == torch.float32 for value in saved.values())
    other = randomise(make(method))
    for one in (trainer, other):
        one.set_model_mode("eval")
    trainer.set_model_mode("eval")
    other.set_model_mode("eval")
    with torch.no_grad():
        assert not torch.equal(other.model(batch()[0]), trainer.model(batch()[0]))
        other.load_model(str(tmp_path), epoch=1)
        assert torch.equal(other.model(batch()[0]), trainer.model(batch()[0]))
    assert other.epochs_done == 1


@METHOD
def test_checkpoint_serves_another_class_list(method: str, make: Make, tmp_path: Path) -> None:
    """Learned on the base classes, evaluated on the new ones."""
    base = randomise(make(method, None, "DATASET.SUBSAMPLE_CLASSES", "base"))
    base.save_model(0, str(tmp_path))
    new = make(method, None, "DATASET.SUBSAMPLE_CLASSES", "new")
    new.load_model(str(tmp_path), epoch=1)
    assert [one.dm.dataset.classnames for one in (base, new)] == [CLASSNAMES[:3], CLASSNAMES[3:]]
    both = make(method)
    both.load_model(str(tmp_path), epoch=1)
    base.model.trained_on = None  # a rule for the classes of the training would tell base from both
    with torch.no_grad():
        joined = torch.cat([trainer.model(batch()[0]) for trainer in (base, new)], dim=1)
        assert difference(both.model(batch()[0]), joined) < 1e-5


@METHOD
def test_half_precision_files_of_the_field(method: str, make: Make, tmp_path: Path) -> None:
    """Their buffers, frozen CLIP and pickled objects are passed over; numbers become fp32."""
    trainer = randomise(make(method))
    weights = {key: value.half() for key, value in state(trainer).items()}
    folder = write_checkpoint(tmp_path, trainer, weights, epoch=3)
    other = make(method)
    other.load_model(folder, epoch=3)
    assert equal(state(other), {key: value.float() for key, value in weights.items()})


def test_what_the_authors_of_kgcoop_save_and_never_read(make: Make, tmp_path: Path) -> None:
    """Their net and bias are passed over; a net that is another method's is not."""
    ctx, square = torch.randn(4, TEXT_WIDTH), torch.zeros(EMBED, EMBED)
    unused = {"bias_vectors": square[:1], "meta_net.linear1.weight": square, "meta_net.linear1.bias": square[0]}
    trainer = make("KgCoOp")
    trainer.load_model(write_checkpoint(tmp_path, trainer, {"ctx": ctx, **unused}, epoch=3), epoch=3)
    assert torch.equal(trainer.model.method.ctx, ctx)
    folder = write_checkpoint(tmp_path, trainer, {"ctx": ctx, "meta_net.linear2.weight": square}, epoch=4)
    with pytest.raises(ValueError, match=r"surplus: meta_net\.linear2\.weight"):
        trainer.load_model(folder, epoch=4)


def test_stripped_file_of_pretrained_prompts(make: Make, tmp_path: Path) -> None:
    """POMP's published prompts: the tensor alone, no epoch, no optimiser."""
    ctx = torch.randn(2, TEXT_WIDTH)
    torch.save({"state_dict": {"ctx": ctx}}, tmp_path / "prompt.pth.tar")
    trainer = make("POMP", {"N_CTX": 2, "CTX_INIT": ""}, "TRAINER.INIT_PROMPTS", str(tmp_path / "prompt.pth.tar"))
    assert torch.equal(trainer.model.method.ctx, ctx)


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


def test_a_run_that_was_killed_in_its_second_epoch(make: Make, tmp_path: Path) -> None:
    """It holds the state after the first, no more; training goes on from there, and evaluation takes it too."""
    trainer = randomise(make("CoOp"))
    trainer.output_dir, trainer.epochs_done, trainer.max_epoch = str(tmp_path), 1, 3
    trainer.keep_resumable()
    assert [path.name for path in (tmp_path / "prompt_learner").iterdir()] == ["model-last.pth.tar"]
    for folder in (tmp_path, tmp_path / "prompt_learner"):
        other = make("CoOp")
        other.load_model(str(folder))
        assert equal(state(other), state(trainer)) and other.epochs_done == 1


def test_the_file_that_goes_on_is_newer_than_numbered_ones(make: Make, tmp_path: Path) -> None:
    """Of a run that keeps every second epoch, killed in its fourth."""
    trainer = make("CoOp")
    trainer.output_dir, trainer.max_epoch = str(tmp_path), 5
    trainer.save_model(1, str(tmp_path))
    trainer.epochs_done = 3
    randomise(trainer).keep_resumable()
    other = make("CoOp")
    other.load_model(str(tmp_path))
    assert equal(state(other), state(trainer)) and other.epochs_done == 3


def test_what_a_folder_without_a_model_holds(make: Make, tmp_path: Path) -> None:
    """The folder that was looked into, not its parent."""
    (tmp_path / "run" / "prompt_learner").mkdir(parents=True)
    (tmp_path / "run" / "prompt_learner" / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"not found in .*run/prompt_learner; there is notes\.txt;"):
        make("CoOp").load_model(str(tmp_path / "run"))


def test_files_of_others_have_no_pointer(make: Make, tmp_path: Path) -> None:
    """Or one to a file that was not passed on; the last epoch is the newest."""
    trainer = make("CoOp")
    for epoch in (1, 9, 8):
        randomise(trainer).save_model(epoch, str(tmp_path))
    folder = tmp_path / "prompt_learner"
    (folder / "checkpoint").write_text("model.pth.tar-200\n")
    trainer.load_model(str(tmp_path))
    assert trainer.epochs_done == 10
    (folder / "checkpoint").unlink()
    (folder / "model.pth.tar-10").unlink()
    trainer.load_model(str(folder))
    assert trainer.epochs_done == 9


def test_no_folder_means_no_loading(make: Make, capsys: pytest.CaptureFixture) -> None:
    trainer = make("CoOp")
    before = state(trainer)
    trainer.load_model("")
    assert equal(state(trainer), before)
    assert "load_model() is skipped" in capsys.readouterr().out


def test_missing_epoch(make: Make, tmp_path: Path) -> None:
    trainer = make("CoOp")
    trainer.save_model(1, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"prompt_learner of epoch 7.*model.pth.tar-2.*--load-epoch"):
        trainer.load_model(str(tmp_path), epoch=7)


def test_checkpoint_of_another_method(make: Make, tmp_path: Path) -> None:
    make("CoOp").save_model(0, str(tmp_path))
    with pytest.raises(ValueError, match=r"does not fit this method .*missing: meta_net.linear1.weight"):
        make("CoCoOp").load_model(str(tmp_path), epoch=1)
    make("CoCoOp").save_model(0, str(tmp_path))
    with pytest.raises(ValueError, match=r"does not fit this method .*surplus: meta_net"):
        make("CoOp").load_model(str(tmp_path), epoch=1)


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


def test_prompts_of_deeper_layers_are_not_passed_over(make: Make, tmp_path: Path) -> None:
    """A file of depth 3 does not serve depth 2, though the rest of the layer, being frozen, is of no interest."""
    deep = make("IVLP", {"PROMPT_DEPTH_VISION": 3})
    folder = write_checkpoint(tmp_path, deep, state(deep), epoch=1)
    with pytest.raises(ValueError, match=r"surplus: image_encoder.transformer.resblocks.2.VPT_shallow\)"):
        make("IVLP", {"PROMPT_DEPTH_VISION": 2}).load_model(folder, epoch=1)
