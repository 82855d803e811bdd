"""The interface of methods carries kinds that are not here yet: a skeleton of each, no special case in shared code.

PromptSRC (teacher features, an average that survives resume), ProGrad (a gradient rule), TCP (prompts per class),
Tip-Adapter-F (a cache of features), MMRL (a second projection) and CLIP-LoRA (changed weights) are methods of the table
and pass its tests. Here is the skeleton of one that distils from unlabelled images: what it asks of the interface.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip import CLIP
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import BrokenImageError
from tests.clip.small import difference
from trainers import register
from trainers.base import PromptTrainer
from trainers.method import (
    Batch,
    Method,
    Needs,
    PromptedCLIP,
    Subset,
)
from trainers.prompted_clip import unit
from trainers.vpt import VPT

from .world import CLASSNAMES, Make, Swatch, Swatches, batch, state, swatches


class Distilled(VPT):
    """Unlabelled images; a projector on the student's features, the teacher's text features."""

    def __init__(self, clip: CLIP, options: VPT.Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options, num_classes)
        self.projector = nn.Linear(clip.embed_dim, clip.embed_dim)

    @classmethod
    def needs(cls, options: VPT.Options) -> Needs:
        return Needs(images=True, unlabelled=True)

    def features(
        self, classifier: PromptedCLIP, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor | None, Tensor]:
        features = None if image is None else classifier.encode_image(image, self.prompts().vision)
        text = classifier.zeroshot()
        text = text if classes is None else text[classes.index]
        return None if features is None else unit(self.projector(features)), text

    def loss(self, classifier: PromptedCLIP, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            soft = classifier.cosine_logits(classifier.encode_image(batch.image), classifier.zeroshot())
        student = self.logits(classifier, batch.image)
        return {
            "kd_loss": F.kl_div(student.log_softmax(1), soft.log_softmax(1), log_target=True, reduction="batchmean")
        }


SKELETONS = {
    Distilled: {"N_CTX_VISION": 2, "PROMPT_DEPTH_VISION": 1},
}
FIXED = ("INPUT.TRANSFORMS", ("normalize",), "OPTIM.MAX_EPOCH", 4)  # the same images in every epoch
ALL = pytest.mark.parametrize("method", SKELETONS, ids=lambda method: method.__name__)


class UnlabelledSwatches(Swatches):
    """With a list of images whose labels are no classes: who reads them fails."""

    def __init__(self, cfg: object) -> None:
        super().__init__(cfg)
        self._train_u = [self._datum(item).relabel(-100) for item in swatches("train", 3)]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for method in SKELETONS:
        register(method)
    DATASET_REGISTRY.register(UnlabelledSwatches)
    yield
    for method in SKELETONS:
        TRAINER_REGISTRY._objects.pop(method.__name__)
    DATASET_REGISTRY._objects.pop("UnlabelledSwatches")


def build(make: Make, method: type[Method], *opts: object) -> PromptTrainer:
    settings = {"PREC": "fp32", **SKELETONS[method]}
    data = ("DATASET.NAME", "UnlabelledSwatches") if method is Distilled else ()
    return make(method.__name__, settings, "OPTIM.MAX_EPOCH", 2, *data, *opts)


@ALL
def test_it_trains_and_is_loaded_again(method: type[Method], make: Make) -> None:
    trainer = build(make, method, "OPTIM.LR", 0.002, *FIXED)
    trainer.train()
    first, *_, last = (epoch["loss"] for epoch in trainer.record.history)
    assert last < first
    with torch.no_grad():
        expected = trainer.model(batch()[0])
    again = build(make, method)
    again.load_model(trainer.output_dir)
    assert state(again).keys() == state(trainer).keys()
    with torch.no_grad():
        assert torch.equal(again.model.eval()(batch()[0]), expected)


@ALL
def test_it_needs_no_engine(method: type[Method], make: Make) -> None:
    """Built and asked in a line each; class features come without an image where they exist."""
    clip = build(make, method).model.clip
    classifier = PromptedCLIP(clip, method(clip, num_classes=len(CLASSNAMES)), CLASSNAMES).eval()
    assert classifier(batch()[0]).shape == (5, len(CLASSNAMES))
    assert classifier.text_features.shape == (len(CLASSNAMES), clip.embed_dim)


def test_a_schedule_can_move_with_every_step(make: Make) -> None:
    """Cosine over all steps: the rate of step k of n is (1 + cos(pi k / n)) / 2 of the first."""
    trainer = build(make, Distilled, "OPTIM.SCHEDULE_UNIT", "step", "OPTIM.LR", 0.01)
    steps, rates = len(trainer.train_loader_x) * 2, []
    trainer.model_zero_grad = lambda *_: [rates.append(trainer.get_current_lr()), trainer.optim.zero_grad()]
    trainer.train()
    assert rates == pytest.approx([0.005 * (1 + math.cos(math.pi * k / steps)) for k in range(steps)])


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("passes", [1, 3])
def test_features_of_whole_lists_are_those_of_their_labels(
    passes: int, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With unreadable images left out, and several views asked of a loader; the run's seed decides, a drawn one too."""
    options = ("DATALOADER.SKIP_BROKEN", True, "DATALOADER.K_TRANSFORMS", 2, "SEED", -1, *FIXED)
    trainer = make("CoOp", {"PREC": "fp32"}, *options)
    whole, label = trainer.image_sets.features("train", passes)
    load = Swatch.load

    def broken(item: Swatch) -> object:
        if item.impath.endswith("red/3") or "/0/3" in item.impath:
            raise BrokenImageError(item.impath)
        return load(item)

    monkeypatch.setattr(Swatch, "load", broken)
    features, found = trainer.image_sets.features("train", passes)
    assert features.shape[:2] == (passes, len(found))
    by_class = {int(c): whole[0][label == c] for c in label.unique()}
    for feature, c in zip(features[0], found.tolist()):
        assert min(difference(feature, one) for one in by_class[c]) < 1e-5, "a feature of another class"


def test_unlabelled_images_are_served(make: Make) -> None:
    trainer = build(make, Distilled)
    labels = torch.cat([batch["label"] for batch in trainer.train_loader_x])
    assert labels.unique().tolist() == [-100]
    with pytest.raises(ValueError, match="Distilled learns from unlabelled images, but Swatches has none"):
        make("Distilled", {"PREC": "fp32"}, "DATASET.NAME", "Swatches", "DATASET.ALL_AS_UNLABELED", False)


def test_several_views_of_an_image_are_served(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distilled, "needs", classmethod(lambda cls, options: Needs(images=True, views=3)))
    trainer = make("Distilled", {"PREC": "fp32"})
    found = trainer.parse_batch_train(next(iter(trainer.train_loader_x)))
    assert [view.shape for view in found.views] == [found.image.shape] * 2
    assert not torch.equal(found.image, found.views[0]) and not torch.equal(*found.views)
