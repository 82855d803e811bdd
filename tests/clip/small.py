"""Small models, prompts and the measure of agreement that the tests of ``clip/`` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from clip.model import CLIP
from clip.prompts import InputRows, LayerPrompt, PerClass, PerImage, PromptPlan

LAYERS, TEXT_WIDTH, VISION_WIDTH, SIZE = 3, 128, 192, 32
SIZES = {
    "embed_dim": 64,
    "image_resolution": SIZE,
    "vision_layers": LAYERS,
    "vision_width": VISION_WIDTH,
    "vision_patch_size": 8,
    "context_length": 77,
    "vocab_size": 49408,
    "transformer_width": TEXT_WIDTH,
    "transformer_heads": 2,
    "transformer_layers": LAYERS,
}


def small_clip(**changes: object) -> CLIP:
    """3 layers, text width 128, vision width 192, 32 pixels, seeded, frozen; no parameter is 0 or 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(**{**SIZES, **changes})
        randomise(model)
    return model.eval().requires_grad_(False)


def randomise(model: nn.Module) -> None:
    """Move biases, norms and statistics away from 0 and 1, so that leaving one out shows."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.add_(0.2 * torch.rand_like(tensor) - (0 if "var" in name else 0.1))


def prompt_rows(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A learnable prompt of the size of the activations, so that it matters."""
    return torch.randn(*shape, dtype=dtype).mul(0.5).requires_grad_()


KINDS = {"shared": lambda rows: rows, "class": PerClass, "image": PerImage}


def deep_plan(first: Tensor | InputRows, depth: int, form: str) -> PromptPlan:
    """Prompts of ``depth`` layers behind the input ``first``, in the form of one of the methods.

    shared: replaced from layer 1 on (IVLP, MaPLe); carry, query: three views from layer 0 on, the residual stream's own
    rows or P_q staying behind (RPP).
    """
    rows = first.rows if isinstance(first, InputRows) else first
    shape, dtype = rows.shape[-2:], rows.dtype

    def layer(index: int) -> LayerPrompt:
        if form == "shared":
            return LayerPrompt.shared(prompt_rows(*shape, dtype=dtype))
        query, key, value = (prompt_rows(*shape, dtype=dtype) for _ in range(3))
        return LayerPrompt(query, key, value, query if form == "query" else None)

    return PromptPlan(first, {index: layer(index) for index in range(1 if form == "shared" else 0, depth)})


def tensors(plan: PromptPlan | None) -> list[Tensor]:
    """Every learnable tensor of a plan, once."""
    return [] if plan is None else list({id(t): t for t in plan.tensors}.values())


def difference(found: Tensor, expected: Tensor) -> float:
    """max|found - expected| / max|expected|."""
    assert found.shape == expected.shape
    if expected.numel() == 0:
        return 0.0
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def disagreement(found: Callable[[], Tensor], expected: Callable[[], Tensor], learned: Sequence[Tensor]) -> float:
    """The largest ``difference`` of two computations: of their values, and of the gradient of each tensor learned."""
    results = []
    for compute in (found, expected):
        value = compute()
        weights = torch.linspace(0, value.numel(), value.numel(), dtype=value.dtype).cos().view_as(value)
        loss = (value * weights).sum() + 0 * sum(t.sum() for t in learned)
        gradients = torch.autograd.grad(loss, learned) if learned else ()
        results.append([value, *gradients])
    return max(difference(a, b) for a, b in zip(*results))
