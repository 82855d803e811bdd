"""Gradients of one step: of the mean over its images, of which every pass and every process has a share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dassl.ranks import Ranks

from .method import Batch
from .prompted_clip import PromptedCLIP

# The first loss scale; it doubles after 2000 steps without an overflow. PyTorch's own, 2^16, overflows in the first
# steps of deep prompts: with the tiny CLIP, their gradients are finite up to 2^14 under fp16 autocast and up to 2^12 in
# fp16, while 2^10 lifts gradients of 6e-11 into fp16's range.
LOSS_SCALE = 2.0**10


def add_gradients(
    model: PromptedCLIP, batch: Batch, passes: int, share: float, scale: Callable[[Tensor], Tensor], ranks: Ranks
) -> dict[str, Tensor]:
    """Add a step's gradients to the method's parameters; returns the terms of its loss: ``loss``, then the named ones.

    batch: the images of this process, gone through in ``passes``. share: its size against that of an equal share.
    scale: of losses, as half precision needs it. Both gradients and terms are those of all processes.
    """
    summed: dict[str, Tensor] = {}
    for part in batch.split(passes):
        with model.autocast():
            terms = model.method.loss(model, part)
        if (weight := share * len(part.label) / len(batch.label)) != 1:
            terms = {name: weight * term for name, term in terms.items()}
        losses = {name: term for name, term in terms.items() if name.endswith("_loss")}
        if not losses:
            who, names = type(model.method).__name__, ", ".join(terms)
            raise ValueError(f"{who}: no term of its loss ends in _loss, there are {names}")
        loss = sum(losses.values())
        model.method.backward({name: scale(loss) for name, loss in losses.items()})
        named = losses if len(losses) > 1 else {}
        for name, term in {"loss": loss, **named, **{n: t for n, t in terms.items() if n not in losses}}.items():
            summed[name] = summed[name] + term.detach() if name in summed else term.detach()
    gradients = [p.grad for p in model.method.parameters() if p.grad is not None] if ranks.size > 1 else []
    ranks.average([*gradients, *summed.values()])
    return summed
