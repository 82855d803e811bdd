"""Linear probe: logistic regression on image features (Radford et al. 2021, arXiv:2103.00020, section 3.2).

Letters: B images, C classes of the training, N training images, E joint width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from clip import CLIP

from .method import Data, Method, Needs, PromptedCLIP, Subset, option
from .prompted_clip import at_least_fp32

EXPONENTS = 6, 4, 2, 0, -2, -4, -6  # of the penalties that are tried first, 10^e
Probe = tuple[Tensor, Tensor]  # weight (C, E) and bias (C,)


class LinearProbe(Method):
    """Fitted in one go, without steps over batches; it knows no other classes than those of the training."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        PENALTY: float = option(1.0, above=0)  # inverse weight of the L2 penalty
        SEARCH: bool = True  # another one, on validation images
        HALVINGS: int = option(8, least=1)  # of the interval around the best power of ten

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        self.weight = nn.Parameter(torch.zeros(num_classes, clip.embed_dim), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(num_classes), requires_grad=False)

    @classmethod
    def needs(cls, options: Options) -> Needs:
        return Needs(images=True)  # cached features are normalised

    def adopt(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Make room for the classes of a file."""
        if (bias := state.get("bias")) is not None and bias.dim() == 1:
            self.weight.data = self.weight.new_zeros(len(bias), self.weight.shape[1])
            self.bias.data = self.bias.new_zeros(len(bias))
        return state

    def features(
        self, classifier: PromptedCLIP, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor | None, Tensor]:
        raise ValueError("A linear probe has no class features, only logits")

    def logits(self, classifier: PromptedCLIP, image: Tensor, classes: Subset | None = None) -> Tensor:
        """v W^T + b of features v as they leave CLIP: (B, C), or those of the classes of now."""
        known = set(classifier.trained_on or classifier.classnames)
        if unknown := [name for name in classifier.classnames if name not in known]:
            raise ValueError(f"A linear probe knows the classes of its training alone, not {', '.join(unknown[:5])}")
        with torch.no_grad():
            found = at_least_fp32(classifier.clip.encode_image(image))
        probe = (classifier.rows_of_now(rows) for rows in (self.weight, self.bias))
        with torch.autocast(image.device.type, enabled=False):
            logits = F.linear(found, *probe)
        return logits if classes is None else logits[:, classes.index]

    def end_epoch(self, done: int, total: int, classifier: PromptedCLIP, data: Data) -> None:
        """After the last one: fit, with the penalty that has the most hits on validation images."""
        if done < total:
            return
        features, label = data.features("train")
        train, count = (features[0].double(), label), len(classifier.classnames)
        if not self.options.SEARCH:
            best = fit(*train, count, self.options.PENALTY)
        else:
            features, label = data.features("val")
            best = search(*train, count, (features[0].double(), label), self.options.HALVINGS)
        self.weight.data, self.bias.data = (tensor.to(self.bias) for tensor in best)


def search(features: Tensor, label: Tensor, num_classes: int, val: tuple[Tensor, Tensor], halvings: int) -> Probe:
    """The best power of ten, the first of several; then, in logarithms, the half of [it / 10, 10 it] at the better end,
    and so on: the better of the last two ends, the left one of two that are equal."""
    bar = tqdm(total=len(EXPONENTS) + 2 * halvings, desc="penalty on validation images", leave=False, disable=None)

    def tried(exponent: float) -> tuple[int, Probe]:
        weight, bias = fit(features, label, num_classes, 10**exponent)
        bar.update()
        return int((F.linear(val[0], weight, bias).argmax(1) == val[1]).sum()), (weight, bias)

    with bar:
        middle = max(EXPONENTS, key=lambda exponent: tried(exponent)[0])
        left, right = middle - 1.0, middle + 1.0
        for _ in range(halvings):
            at_left, at_right, middle = tried(left), tried(right), (left + right) / 2
            if at_left[0] < at_right[0]:
                left, best = middle, at_right
            else:
                right, best = middle, at_left
    return best[1]


def fit(features: Tensor, label: Tensor, num_classes: int, penalty: float) -> Probe:
    """Minimise sum_n CE_n + |W|^2 / (2 penalty) by L-BFGS, from 0; features (N, E), label (N,)."""
    weight, bias = features.new_zeros(num_classes, features.shape[1]), features.new_zeros(num_classes)
    limits = {"max_iter": 1000, "tolerance_grad": 1e-5, "tolerance_change": 1e-13}
    optim = torch.optim.LBFGS(
        [weight.requires_grad_(), bias.requires_grad_()], history_size=10, line_search_fn="strong_wolfe", **limits
    )

    def loss() -> Tensor:
        optim.zero_grad()
        cross_entropy = F.cross_entropy(F.linear(features, weight, bias), label, reduction="sum")
        total = (cross_entropy + weight.square().sum() / (2 * penalty)) / len(label)
        total.backward()
        return total

    optim.step(loss)
    return weight.detach(), bias.detach()
