"""Zero-shot and probes of frozen image features, of the embedded data sets; the command is ``tools.world``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from clip.model import CLIP
from dassl.config import get_cfg_default
from dassl.data.datasets import Datum
from datasets.embedded import EMBEDDED
from datasets.embedded.sets import EmbeddedDataset
from trainers.method import Method
from trainers.prompted_clip import TEMPLATE, PromptedCLIP

from .tiny_clip import normalise

PENALTIES = (1e-2, 1e-3, 1e-4)  # on the distance from zero-shot; the best on the validation images is taken
STEPS = 50


@dataclass(frozen=True)
class Row:
    """Measurements of one data set; None for probes of a set without training images."""

    name: str
    classes: int
    generic: float
    own: float
    ensemble: float
    linear: float | None = None
    composed: float | None = None


@torch.no_grad()
def encode(clip: CLIP, items: Sequence[Datum]) -> tuple[Tensor, Tensor]:
    """Unit-norm features (N, E) and labels (N,) of pictures."""
    features = []
    for start in range(0, len(items), 500):
        pixels = np.stack([np.asarray(item.load()) for item in items[start : start + 500]])
        features.append(F.normalize(clip.encode_image(normalise(torch.from_numpy(pixels))), dim=-1))
    return torch.cat(features), torch.tensor([item.label for item in items])


def accuracy(features: Tensor, labels: Tensor, classes: Tensor) -> float:
    """Percent of images (N, E) whose nearest class (C, E) is their label."""
    return 100 * ((features @ classes.t()).argmax(1) == labels).float().mean().item()


def spelling(classes: Sequence[tuple[str, ...]]) -> Tensor:
    """(C, P) ones where class c has word p; the same word at another place of a name is another one."""
    column: dict[tuple[int, str], int] = {}
    rows = [[column.setdefault(part, len(column)) for part in enumerate(words)] for words in classes]
    return torch.stack([F.one_hot(torch.tensor(row), len(column)).sum(0) for row in rows]).float()


def minimise(loss: Callable[[], Tensor], free: Tensor) -> None:
    """Move ``free``, in place, to where the loss is least."""
    optimiser = torch.optim.LBFGS([free], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def probe(splits: dict[str, tuple[Tensor, Tensor]], parts: Tensor, zero_shot: Tensor, scale: float) -> float:
    """Test accuracy of class vectors parts @ free, (C, P) times (P, E), that start from those of zero-shot (C, E)."""
    start = torch.linalg.lstsq(parts, zero_shot, driver="gelsd").solution.contiguous()  # parts may lack full rank
    free = start.clone().requires_grad_()
    features, labels = splits["train"]

    def loss(penalty: float) -> Tensor:
        logits = scale * features @ (parts @ free).t()
        return F.cross_entropy(logits, labels) + penalty * (free - start).pow(2).sum()

    found = []
    for penalty in PENALTIES:
        minimise(partial(loss, penalty), free)  # goes on from the last one
        found.append([accuracy(*splits[split], parts @ free.detach()) for split in ("val", "test")])
    return max(found, key=lambda pair: pair[0])[1]


def measure(clip: CLIP, kind: type[EmbeddedDataset]) -> Row:
    """Everything about one data set; each picture is encoded once."""
    data = kind(get_cfg_default())
    classifier = PromptedCLIP(clip, Method(clip), data.classnames, data.template, data.templates).eval()
    generic, own, ensemble = (classifier.zeroshot(texts) for texts in ((TEMPLATE,), (), data.templates))
    test = encode(clip, data.test)
    row = Row(kind.__name__, data.num_classes, *(accuracy(*test, classes) for classes in (generic, own, ensemble)))
    if kind.test_only:
        return row
    splits = {"train": encode(clip, data.train_x), "val": encode(clip, data.val), "test": test}
    linear, composed = (
        probe(splits, parts, generic, clip.logit_scale.exp().item())
        for parts in (torch.eye(data.num_classes), spelling(kind.classes()))
    )
    return replace(row, linear=linear, composed=composed)


def table(clip: CLIP, kinds: Sequence[type[EmbeddedDataset]] = EMBEDDED) -> str:
    """A row for each data set."""
    rows = [measure(clip, kind) for kind in tqdm(kinds, "measuring", unit="data set")]
    names = ["data set", *(column.name for column in fields(Row)[1:])]
    return tabulate([astuple(row) for row in rows], headers=names, floatfmt=".1f", missingval="-")
