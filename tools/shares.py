"""What each of N ranks encodes, holds and sends in a step: arithmetic, no measurement.

Letters: N ranks, B images of one rank in a step, C classes, K candidates a step, U distinct classes among them, E joint
width, P learnable numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

NUMBER = 4  # bytes: features, prompts and gradients are fp32 whatever CLIP's precision


@dataclass(frozen=True)
class Share:
    """One of ``ranks`` in a step of ``batch`` images a rank.

    candidates: K, of which K - 1 are drawn; 0 for all classes. parameters: P. state: numbers that the optimiser keeps.
    shares_texts: whether ranks share the texts out; not if these depend on the image. views: of each image. passes: in
    which a step goes through its images; each encodes the texts.
    """

    ranks: int
    batch: int
    classes: int
    candidates: int
    width: int
    parameters: int
    state: int
    views: int = 1
    passes: int = 1
    shares_texts: bool = True

    @property
    def global_batch(self) -> int:
        return self.ranks * self.batch

    @property
    def texts(self) -> int:
        """U. With sampling its expectation, for labels that are independent and equally likely: a class is left out
        if it is neither among the K - 1 that are drawn from C nor the label of any image."""
        if not self.candidates:
            return self.classes
        undrawn = 1 - (self.candidates - 1) / self.classes
        return round(self.classes * (1 - undrawn * (1 - 1 / self.classes) ** self.global_batch))

    @property
    def own_texts(self) -> int:
        """Texts that a rank encodes."""
        return ceil(self.texts / self.ranks) if self.shares_texts else self.texts

    @property
    def own_classes(self) -> int:
        """Of an evaluation, in which all classes are encoded."""
        return ceil(self.classes / self.ranks) if self.shares_texts else self.classes

    @property
    def feature_bytes(self) -> int:
        """Of the gathered class features, which every rank holds, and as much for their gradient."""
        return self.texts * self.width * NUMBER

    @property
    def prompt_bytes(self) -> int:
        """Of the parameters, their gradients and the optimiser's numbers, which every rank holds."""
        return (2 * self.parameters + self.state) * NUMBER

    @property
    def sent_bytes(self) -> int:
        """By one rank in a step, around a ring: the others' N - 1 pieces of the features pass through it once, those of
        the features' gradient and of the prompts' gradient twice, as sums and as results."""
        if self.ranks == 1:
            return 0
        features = 3 * self.passes * self.own_texts * self.width if self.shares_texts else 0
        gradients = 2 * ceil(self.parameters / self.ranks)
        return (self.ranks - 1) * (features + gradients) * NUMBER

    def rows(self) -> list[tuple[str, str]]:
        views = f" ({self.views} views of each)" if self.views > 1 else ""
        sampled = f"expected: labels and {self.candidates - 1:,} sampled" if self.candidates else "all classes"
        how = f", in each of {self.passes} passes" if self.passes > 1 else ""
        how += "" if self.shares_texts else "; not shared"
        return [
            ("images of a rank", f"{self.batch:,} of {self.global_batch:,} a step{views}"),
            ("class texts of a rank", f"{self.own_texts:,} of {self.texts:,} a step ({sampled}){how}"),
            ("class texts of an evaluation", f"{self.own_classes:,} of {self.classes:,}"),
            ("prompts, gradients, optimiser", f"{size(self.prompt_bytes)} on each rank"),
            ("class features", f"{size(self.feature_bytes)} on each rank, as much for their gradient"),
            ("sent by a rank", f"{size(self.sent_bytes)} a step"),
        ]


def size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.2f} kB"
