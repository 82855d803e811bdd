"""FLOPs of a method's step and test batch as functions of their sizes, ours and the family's way.

Both are affine in images B, classes C and their product, and are counted at four small sizes; the weights are the
backbone's, or random ones of its shapes.

Letters: B images of a batch, C classes, E joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import naive
from benchmarks.common import NaiveCLIP
from clip import CLIP, PromptPlan, Texts
from clip.clip import load_frozen
from dassl.config import CfgNode
from dassl.engine import TRAINER_REGISTRY
from tools.stand_ins import class_names
from trainers.load import method_section
from trainers.method import Batch, Method, Needs
from trainers.options import Options, read_options
from trainers.prompted_clip import PromptedCLIP, Subset

IMAGES, CLASSES, FAMILY_CLASSES = (2, 3), (12, 36), (1, 2)  # one image has no batch statistics


@dataclass(frozen=True)
class Affine:
    """FLOPs k + i B + t C + x B C."""

    base: float = 0.0
    image: float = 0.0
    text: float = 0.0
    product: float = 0.0

    def __call__(self, images: float, classes: float) -> float:
        return self.base + self.image * images + self.text * classes + self.product * images * classes

    @classmethod
    def through(cls, counts: dict[tuple[int, int], float]) -> Affine:
        """Of counts at four sizes (B, C), two of each."""
        rows = torch.tensor([[1.0, b, c, b * c] for b, c in counts], dtype=torch.float64)
        return cls(*torch.linalg.solve(rows, torch.tensor([*counts.values()], dtype=torch.float64)).tolist())


@dataclass(frozen=True)
class Costs:
    """Of a method, one way. once: what a training does once, by classes; texts: what an evaluation does once. Steps and
    test batches of images, and of their features. encode: of one image; passes: views that a beginning looks at."""

    once: Affine
    step: Affine
    step_of_features: Affine
    texts: Affine
    test: Affine
    test_of_features: Affine
    encode: float
    passes: int


class FamilyCLIP(NaiveCLIP):
    """All texts anew whenever they are wanted, but for those that no prompt changes. Features (B, E) pass through."""

    def encode_image(self, image: Tensor, plan: PromptPlan | None = None) -> Tensor:
        return image if image.dim() == 2 else super().encode_image(image, plan)

    def encode_text(self, plan: PromptPlan | None, classes: Subset | None = None) -> Tensor:
        if plan is not None:
            return super().encode_text(plan, classes)
        if "plain" not in self._handwritten:
            self._handwritten["plain"] = super().encode_text(None)
        features = self._handwritten["plain"]
        return features if classes is None else features[classes.index]

    def _encode_template(self, template: str) -> Tensor:
        ids = naive.padded_ids(Texts.from_strings([template.format(name) for name in self.classnames]))
        return naive.encode_text(self.clip, ids.to(self.device), None, naive.sdpa)


@dataclass
class Views:
    """What a method's beginning may ask for: random features, and how many passes it asked for."""

    classnames: Sequence[str]
    width: int
    passes: int = 0

    def features(self, split: str, passes: int = 1) -> tuple[Tensor, Tensor]:
        self.passes = max(self.passes, passes)
        return torch.randn(passes, len(self.classnames), self.width), torch.arange(len(self.classnames))


# What is counted ------------------------------------------------------------------------------------------------------


def flops(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


@cache
def backbone(name: str, path: str) -> CLIP:
    return load_frozen(name, path, "fp32")


@dataclass(frozen=True)
class Learner:
    """A method with its options, and the shapes of its CLIP: what a count depends on."""

    method: type[Method]
    options: Options
    clip: tuple[str, str]

    @classmethod
    def of(cls, cfg: CfgNode) -> Learner:
        method = TRAINER_REGISTRY.get(cfg.TRAINER.NAME).method
        options = replace(read_options(method.Options, method_section(cfg, method), method.section()), PREC="fp32")
        return cls(method, options, (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH))

    @property
    def needs(self) -> Needs:
        return self.method.needs(self.options)

    def classifier(self, classes: int, kind: type[PromptedCLIP]) -> PromptedCLIP:
        """Of class names of all lengths, untrained."""
        clip, names = backbone(*self.clip), class_names(10450)
        torch.manual_seed(0)
        spread = names[:: len(names) // classes][:classes]
        return kind(clip, self.method(clip, self.options, classes), spread)

    def costs(self, kind: type[PromptedCLIP] = PromptedCLIP, classes: Sequence[int] = CLASSES) -> Costs:
        found: dict[str, dict[tuple[int, int], float]] = {}
        for count in classes:
            for name, counts in self.counts(kind, count).items():
                found.setdefault(name, {}).update({(images, count): number for images, number in counts.items()})
        encode, passes = found.pop("encode")[1, classes[0]], int(found.pop("passes")[1, classes[0]])
        return Costs(**{name: Affine.through(counts) for name, counts in found.items()}, encode=encode, passes=passes)

    def counts(self, kind: type[PromptedCLIP], classes: int) -> dict[str, dict[int, float]]:
        """Of everything at one number of classes, by images."""
        model = self.classifier(classes, kind)
        data, size = Views(model.classnames, model.clip.embed_dim), model.clip.visual.input_resolution
        begun = flops(lambda: model.method.begin(model, data))
        picture = partial(torch.randn, size=(IMAGES[0], 3, size, size))
        found = {"encode": {1: flops(lambda: model.encode_image(torch.randn(1, 3, size, size)))}}
        found["passes"] = {1: float(data.passes)}
        for mode, work in (("step", self.step), ("test", self.test)):
            if mode == "test":  # a run of its own, which has encoded nothing yet
                model = self.classifier(classes, kind)
            model.trained_on = tuple(model.classnames)
            learns = any(param.requires_grad for param in model.method.parameters())
            sizes = [(b, 3, size, size) if self.needs.images else (b, data.width) for b in IMAGES]
            model.train(mode == "step")
            if mode == "step" and not learns:
                first, steps, more = begun, [0.0, 0.0], 0.0
            else:
                first = flops(partial(work, model, torch.randn(sizes[0]))) + (begun if mode == "step" else 0)
                steps = [flops(partial(work, model, torch.randn(shape))) for shape in sizes]
                more = 0.0 if self.needs.images else (flops(partial(work, model, picture())) - steps[0]) / IMAGES[0]
            found[f"{mode}_of_features"] = dict(zip(IMAGES, steps))
            found[mode] = {b: number + b * more for b, number in zip(IMAGES, steps)}
            found["once" if mode == "step" else "texts"] = dict.fromkeys(IMAGES, first - steps[0])
        return found

    def step(self, model: PromptedCLIP, image: Tensor) -> None:
        label = torch.zeros(len(image), dtype=torch.long)
        terms = model.method.loss(model, Batch.of(image, label, (image,) * (self.needs.views - 1)))
        model.method.zero_grad()
        model.method.backward({name: term for name, term in terms.items() if name.endswith("_loss")})

    @torch.no_grad()
    def test(self, model: PromptedCLIP, image: Tensor) -> None:
        model(image)
