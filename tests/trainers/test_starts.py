"""Prompts of one method as the start of another: the same function, or a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.clip.small import LAYERS, difference
from trainers import PromptTrainer

from .world import Make, Settings, batch, in_double, randomise

LENGTHS = {"N_CTX_TEXT": 2, "N_CTX_VISION": 3, "PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 3}
SHARED = {**LENGTHS, "QKV": "shared", "RESIDUAL": "query"}
TOKENS = {"N_CTX": 3, "CTX_INIT": ""}
STARTS = {
    "RPP": ("RPP", {**LENGTHS, "QKV": "qkv"}, "RPP", {**LENGTHS, "QKV": "qkv"}),
    "POMP": ("POMP", TOKENS, "POMP", TOKENS),
    "POMP to CoOp": ("POMP", TOKENS, "CoOp", TOKENS),
    "POMP to ProGrad": ("POMP", TOKENS, "ProGrad", TOKENS),
    "CoOp to KgCoOp": ("CoOp", TOKENS, "KgCoOp", TOKENS),
    "IVLP to PromptSRC": ("IVLP", LENGTHS, "PromptSRC", LENGTHS),
    "RPP to IVLP": ("RPP", SHARED, "IVLP", LENGTHS),
    "RPP to PromptSRC": ("RPP", SHARED, "PromptSRC", LENGTHS),
    "RPP to IVLP, text alone": (
        "RPP",
        {**SHARED, "PROMPT_DEPTH_VISION": 0},
        "IVLP",
        {**LENGTHS, "PROMPT_DEPTH_VISION": 0},
    ),
}


def saved(make: Make, method: str, settings: Settings, folder: Path) -> PromptTrainer:
    """A method with random prompts, which are in the folder of a run."""
    trainer = randomise(make(method, settings))
    trainer.save_model(0, str(folder))
    return trainer


def apart(one: PromptTrainer, other: PromptTrainer) -> float:
    """How far two trainers' logits are from each other, in fp64."""
    with torch.no_grad():
        for trainer in (one, other):
            in_double(trainer).set_model_mode("eval")
        image = batch(dtype=torch.float64)[0]
        return float(difference(other.model(image), one.model(image)))


@pytest.mark.parametrize(("method", "settings", "other", "others"), STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("is_file", [False, True], ids=["folder", "file"])
def test_the_start_is_the_function_that_was_saved(
    method: str, settings: Settings, other: str, others: Settings, is_file: bool, make: Make, tmp_path: Path
) -> None:
    before = saved(make, method, settings, tmp_path)
    source = next(tmp_path.rglob("model.pth.tar-1")) if is_file else tmp_path
    plain, started = make(other, others), make(other, others, "TRAINER.INIT_PROMPTS", str(source))
    assert apart(before, started) < 1e-9 < 1e-3 < apart(before, plain)


@pytest.mark.parametrize("layers, is_same", [(LAYERS - 1, False), (LAYERS, True)])
def test_rows_that_carry_on_differ_behind_the_prompted_layers(
    layers: int, is_same: bool, make: Make, tmp_path: Path
) -> None:
    """In a prompted layer the other rows see keys and values of the prompts alone, whatever stays in the residual."""
    deep = {**LENGTHS, "PROMPT_DEPTH_TEXT": layers, "PROMPT_DEPTH_VISION": layers}
    before = saved(make, "RPP", {**deep, "QKV": "shared", "RESIDUAL": "carry"}, tmp_path)
    plain, started = make("IVLP", deep), make("IVLP", deep, "TRAINER.INIT_PROMPTS", str(tmp_path))
    assert apart(before, started) < apart(before, plain)
    assert (apart(before, started) < 1e-9) == is_same


REFUSED = {
    "unshared": ({"QKV": "qkv"}, {}, "IVLP cannot start from .*for key and query and value.*TRAINER.RPP.QKV shared"),
    "keys and values": ({"QKV": "kv"}, {}, "for key and value, where one shared prompt"),
    "depth": ({}, {"PROMPT_DEPTH_TEXT": 1}, "does not fit .*1 surplus: text.1"),
    "length": ({}, {"N_CTX_VISION": 2}, r"of another shape: image_encoder.VPT \(3, "),
}


@pytest.mark.parametrize(("changes", "others", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit(changes: Settings, others: Settings, reason: str, make: Make, tmp_path: Path) -> None:
    saved(make, "RPP", {**SHARED, **changes}, tmp_path)
    with pytest.raises(ValueError, match=reason):
        make("IVLP", {**LENGTHS, **others}, "TRAINER.INIT_PROMPTS", str(tmp_path))
