"""ProGrad: Prompt-aligned Gradient for Prompt Tuning (Zhu et al., ICCV 2023, arXiv:2205.14865).

CoOp whose gradient may not contradict what zero-shot CLIP knows.

Letters: B images, C classes, P context tokens, D width of the text encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clip import CLIP

from .coop import CoOp
from .method import Batch, Context, PromptedCLIP, classification_terms, option


class ProGrad(CoOp):
    @dataclass(frozen=True)
    class Options(CoOp.Options):
        LAMBDA: float = option(1.0, least=0)  # how much of the contradicting part is taken out
        TEMPERATURE: float = option(1.0, above=0)

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        """With ``CTX_INIT`` the last of the ``N_CTX`` tokens start from the phrase, those before it from zero."""
        super().__init__(clip, options, num_classes)
        length, words = self.options.N_CTX, self.context
        if words.phrase:
            if words.length > length:
                raise ValueError(f"{self.section()}.N_CTX {length} has no room for CTX_INIT {words.phrase!r}")
            self.context = Context(length, position=words.position)
            zeros = self.ctx.new_zeros(length - words.length, self.ctx.shape[1])
            self.ctx = nn.Parameter(torch.cat([zeros, self.ctx.data]))  # (P, D)

    def loss(self, classifier: PromptedCLIP, batch: Batch) -> dict[str, Tensor]:
        """Two terms with gradients of their own: CE, and T^2 CE(softmax(z0 / T), softmax(z / T)) (eq. 3 and 4)."""
        image, text = classifier.features(batch.image)
        logits = classifier.cosine_logits(image, text)
        frozen = classifier.cosine_logits(image, classifier.zeroshot())
        temperature = self.options.TEMPERATURE
        soft = -(frozen / temperature).softmax(1) * (logits / temperature).log_softmax(1)  # (B, C)
        return classification_terms(logits, batch.label) | {"kd_loss": temperature**2 * soft.sum(1).mean()}

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Per tensor: the gradient of CE, without its component against that of the distillation (eq. 5)."""
        learned = [p for p in self.parameters() if p.requires_grad]
        general = torch.autograd.grad(losses["kd_loss"], learned, retain_graph=True)
        own = torch.autograd.grad(losses["ce_loss"], learned)
        for parameter, ours, theirs in zip(learned, own, general):
            parameter.grad = aligned(ours, theirs, self.options.LAMBDA)


def aligned(own: Tensor, general: Tensor, weight: float) -> Tensor:
    """``own`` less ``weight`` times its projection on ``general`` where they point apart, ``own`` where they agree."""
    against = (own * general).sum().clamp(max=0)  # 0 where they agree, or where ``general`` is zero
    return own - weight * against / general.square().sum().clamp(min=torch.finfo(own.dtype).tiny) * general
