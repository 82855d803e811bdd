"""What each method learns: how many numbers at ViT-B/16's size, from which start, in which form."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch

from clip.model import CLIP

from .world import CLASSNAMES, Make, batch, learnable, method_class, terms

FOUR = {"CTX_INIT": "a photo of a"}


@cache
def vit_b16_widths() -> CLIP:
    """A model with ViT-B/16's widths that says it has its 12 layers, with one layer and a few words in truth."""
    clip = CLIP(512, 224, 1, 768, 16, 77, 2000, 512, 8, 1)
    clip.transformer.layers = clip.visual.transformer.layers = 12
    return clip


def lengths_and_depths(*numbers: int) -> dict[str, int]:
    return dict(zip(("N_CTX_TEXT", "N_CTX_VISION", "PROMPT_DEPTH_TEXT", "PROMPT_DEPTH_VISION"), numbers))


@pytest.mark.parametrize(
    ("method", "settings", "count"),
    [
        ("CoOp", {"N_CTX": 16}, 8_192),
        ("CoOp", FOUR, 2_048),
        ("POMP", {"N_CTX": 4}, 2_048),
        ("POMP", {"N_CTX": 16}, 8_192),
        ("CoCoOp", FOUR, 35_360),
        ("CoCoOp", {"N_CTX": 16}, 41_504),
        ("VPT", {"N_CTX_VISION": 8, "PROMPT_DEPTH_VISION": 12}, 73_728),
        ("IVLP", lengths_and_depths(2, 2, 12, 12), 30_720),
        ("IVLP", lengths_and_depths(4, 4, 9, 9), 46_080),
        ("IVLP", lengths_and_depths(4, 0, 12, 0), 24_576),
        ("MaPLe", {"N_CTX": 2, "PROMPT_DEPTH": 9}, 3_555_072),
        ("MaPLe", {"N_CTX": 2, "PROMPT_DEPTH": 3}, 1_185_024),
        ("MaPLe", {"N_CTX": 2, "PROMPT_DEPTH": 9, "UNIFIED": True}, 9 * 2 * 512 + 393_984),
        ("KgCoOp", {}, 2_048),
        ("TCP", {}, 331_904),
        ("CLIPAdapter", {}, 131_072),
        ("MMRL", {}, 4_992_256),
        ("CLIPLoRA", {}, 184_320),
        ("MMA", {}, 8 * (2 * 32 * (512 + 768) + 512 + 768 + 2 * 32 + 32 * 32 + 32)),
        ("RPP", lengths_and_depths(4, 4, 9, 9), 3 * 46_080),
        ("RPP", {**lengths_and_depths(4, 4, 9, 9), "QKV": "kv"}, 2 * 46_080),
        ("RPP", {**lengths_and_depths(4, 4, 9, 9), "QKV": "shared"}, 46_080),
        ("RPP", {**lengths_and_depths(4, 4, 9, 9), "RESIDUAL": "query"}, 3 * 46_080 - 8 * 4 * (512 + 768)),
    ],
)
def test_published_numbers_of_parameters(method: str, settings: dict, count: int) -> None:
    kind = method_class(method)
    made = kind(vit_b16_widths(), kind.Options(**settings))
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == count


def test_context_per_class(make: Make) -> None:
    trainer = make("CoOp", {"CSC": True, "N_CTX": 5, "CTX_INIT": ""})
    assert trainer.model.method.ctx.shape == (len(CLASSNAMES), 5, 128)
    assert make("CoOp", {"CSC": True, "CTX_INIT": "a photo of"}).model.method.ctx.shape == (3, 128)


@pytest.mark.parametrize("method", ["CoOp", "CoCoOp", "POMP"])
def test_words_of_the_phrase_decide_the_length(method: str, make: Make) -> None:
    """CoOp's rule: CTX_INIT overrides N_CTX."""
    trainer = make(method, {"CTX_INIT": "a_photo_of", "N_CTX": 9})
    words = trainer.model.clip.token_embedding(torch.tensor([320, 1125, 539]))
    assert torch.equal(trainer.model.method.ctx, words)


@pytest.mark.parametrize("method", ["IVLP", "MaPLe"])
def test_short_contexts_start_from_the_phrase_and_long_ones_at_random(method: str, make: Make) -> None:
    """MaPLe's rule: at most 4 tokens of the phrase, whose other words stay."""
    key, length = "prompt_learner.ctx", {"IVLP": "N_CTX_TEXT", "MaPLe": "N_CTX"}[method]
    short, long = make(method, {length: 2}), make(method, {length: 5})
    words = short.model.clip.token_embedding(torch.tensor([320, 1125]))
    assert torch.equal(learnable(short)[key], words)
    assert short.model.texts.ids[0].tolist()[:6] == [49406, -1, -2, 539, 320, 736]  # SOS, two slots, of a red
    assert long.model.texts.ids[0].tolist()[:7] == [49406, -1, -2, -3, -4, -5, 736]
    assert abs(learnable(long)[key].std().item() - 0.02) < 0.003


@pytest.mark.parametrize("method", ["IVLP", "MaPLe", "RPP"])
def test_phrase_shorter_than_the_context(method: str, make: Make) -> None:
    length = "N_CTX" if method == "MaPLe" else "N_CTX_TEXT"
    with pytest.raises(ValueError, match="CTX_INIT 'a photo' has 2 tokens, fewer than the 3 context tokens"):
        make(method, {length: 3, "CTX_INIT": "a photo"})


def test_maple_couplings_start_as_copies_and_learn_apart(make: Make) -> None:
    trainer = make("MaPLe", {"PROMPT_DEPTH": 3})
    first, second = trainer.model.method.compound_prompt_projections
    assert torch.equal(first.weight, second.weight) and first.weight is not second.weight
    terms(trainer, *batch())["ce_loss"].backward()
    assert not torch.equal(first.weight.grad, second.weight.grad)


def test_unified_maple_has_one_coupling(make: Make) -> None:
    keys = set(learnable(make("MaPLe", {"PROMPT_DEPTH": 3, "UNIFIED": True})))
    names = ("ctx", "proj.weight", "proj.bias", "compound_prompts_text.0", "compound_prompts_text.1")
    assert keys == {f"prompt_learner.{name}" for name in names}


def test_shallow_maple_has_no_deep_prompts(make: Make) -> None:
    trainer = make("MaPLe", {"PROMPT_DEPTH": 1})
    plans = trainer.model.method.prompts()
    assert not plans.text.layers and not plans.vision.layers
    assert set(learnable(trainer)) == {f"prompt_learner.{name}" for name in ("ctx", "proj.weight", "proj.bias")}


def test_cocoop_gives_every_image_its_own_context(make: Make) -> None:
    method = make("CoCoOp", {"N_CTX": 2, "CTX_INIT": ""}).model.method
    features = torch.randn(3, 64)
    contexts = method.prompts(features).text.input.rows
    assert contexts.shape == (3, 2, 128)
    shifts = contexts - method.ctx
    assert torch.allclose(shifts[:, 0], shifts[:, 1], atol=1e-6)  # the same for all context vectors
    assert all(not torch.equal(a, b) for a, b in pairwise(shifts[:, 0]))
