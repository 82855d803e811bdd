"""Accuracy beside printed numbers: of zero-shot CLIP, and of checkpoints; and what is done to an image before that."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import train
from clip.clip import PIXEL_MEAN, PIXEL_STD, image_transform
from configs import ROOT as CONFIGS
from configs import methods
from dassl.data.transforms import build_transform
from dassl.utils import read_json
from tools.command import parse_args, setup_cfg
from tools.jobs import silence
from trainers.load import ZERO_SHOT

from .expected import Accuracy, Expected, protocol_of
from .verdicts import OK, WRONG, Verdict, verdict

TOLERANCE = 0.3  # points


@dataclass(frozen=True)
class Setup:
    """What all evaluations have in common. weights: the file; opts: KEY VALUE words."""

    expected: Expected
    root: Path | None
    weights: Path
    out: Path
    opts: tuple[str, ...] = ()

    def arguments(self, method: str, protocol: str, dataset: str) -> list[str]:
        """Those of ``train.py`` for a method's settings on a data set, by the stem of its file."""
        settings = self.expected.settings_file(methods()[method], protocol, dataset)
        words = ["--trainer", method, "--config-file", str(settings), "--seed", "1"]
        words += ["--dataset-config-file", str(CONFIGS / "datasets" / f"{dataset}.yaml")]
        return words + (["--root", str(self.root)] if self.root else [])

    def backbone(self) -> list[str]:
        """KEY VALUE words, and the user's own."""
        name = ["MODEL.BACKBONE.NAME", self.expected.backbone]
        return [*name, "MODEL.BACKBONE.PATH", str(self.weights), *self.opts]

    def test(self, folder: Path, arguments: Sequence[str], *opts: str) -> dict[str, Any]:
        """The record of a test on all classes, which stays in the folder with its log."""
        shutil.rmtree(folder, ignore_errors=True)
        words = [*arguments, "--eval-only", "--output-dir", str(folder)]
        options = ["DATASET.NUM_SHOTS", "-1", "DATASET.HELD_OUT", "0", "TEST.COMPUTE_CMAT", "True", *opts]
        options += ["DATALOADER.FEATURE_STORE", ""]  # the images themselves are looked at
        with silence():
            train.run(parse_args([*words, *options, *self.backbone()]))
        return read_json(str(folder / "metrics.json"))

    def compare(self, what: str, wanted: Accuracy, arguments: Sequence[str], *opts: str) -> Verdict:
        """A test beside what is printed."""
        folder = self.out / "runs" / what.replace(" ", "_")
        record = self.test(folder, arguments, *opts)
        result = record["results"]["test"]
        found = f"{result['accuracy']:.2f} % of {result['total']:,} images, {record['seconds']['test']:.0f} s"
        expected = f"{wanted.value:.2f} ± {TOLERANCE} % ({wanted.source})"
        state = OK if abs(result["accuracy"] - wanted.value) <= TOLERANCE else WRONG
        advice = hint(result["per_class"], folder / "cmat.pt") or f"its log is in {folder}"
        return Verdict(state, what, found, expected, advice)


def verify_zeroshot(setup: Setup, name: str, dataset: str, wanted: Accuracy) -> Verdict:
    """The first zero-shot method of the table, with the data set's own template."""
    return setup.compare(name, wanted, setup.arguments(ZERO_SHOT, "zeroshot", dataset))


def verify_checkpoint(setup: Setup, method: str, path: Path, dataset: str, wanted: Accuracy) -> Verdict:
    """Prompts on the data set that they were trained on."""
    arguments = setup.arguments(method, protocol_of(dataset), dataset)
    return setup.compare(f"{method} on {dataset}", wanted, arguments, "TRAINER.INIT_PROMPTS", str(path))


def hint(per_class: Sequence[dict[str, Any]], path: Path) -> str:
    """Classes that are mostly taken for each other, as if their names were swapped; of a confusion matrix (C, C)."""
    matrix = torch.load(path, weights_only=True)
    if len(matrix) != len(per_class):  # it also has classes without an image
        return ""
    best = matrix.argmax(dim=1).tolist()
    pairs = [(a, b) for a, b in enumerate(best) if a < b and best[b] == a]
    named = [f"{per_class[a]['classname']} and {per_class[b]['classname']}" for a, b in pairs[:3]]
    return f"mostly taken for each other, as if names were swapped: {'; '.join(named)}" if named else ""


# Before the encoder ---------------------------------------------------------------------------------------------------


def verify_images(setup: Setup, dataset: str) -> Iterator[Verdict]:
    """What the test pipeline does to pictures, beside what CLIP's own does: measured, whatever the settings say."""
    words = setup.arguments(ZERO_SHOT, "zeroshot", dataset)
    with silence():
        cfg = setup_cfg(parse_args([*words, "OUTPUT_DIR", str(setup.out), *setup.backbone()]))
        transform = build_transform(cfg, is_train=False)
    size = max(cfg.INPUT.SIZE)
    black, white = (transform(Image.new("RGB", (size, size), colour)).mean(dim=(1, 2)) for colour in ("black", "white"))
    std = 1 / (white - black)
    mean = -black * std
    yield verdict("normalisation", shown(mean, std), shown(PIXEL_MEAN, PIXEL_STD), "INPUT.PIXEL_MEAN, INPUT.PIXEL_STD")
    noise = torch.randint(256, (size // 3, size // 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    photo = Image.fromarray(noise.numpy()).resize((2 * size, 4 * size // 3), Image.Resampling.BICUBIC)
    ours, own = transform(photo), image_transform(size)(photo)
    ours = ours * std[:, None, None] + mean[:, None, None]
    own = own * torch.tensor(PIXEL_STD)[:, None, None] + torch.tensor(PIXEL_MEAN)[:, None, None]
    off = (ours - own).abs().max().item()
    found = f"{255 * off:.1f} of 255 from CLIP's own"
    state = OK if 255 * off <= 1 else WRONG
    yield Verdict(
        state, "resizing and cropping", found, "at most 1", "INPUT.SIZE, INPUT.INTERPOLATION, INPUT.TRANSFORMS"
    )


def shown(mean: Sequence[float] | torch.Tensor, std: Sequence[float] | torch.Tensor) -> str:
    return f"mean {' '.join(f'{float(x):.3f}' for x in mean)}, std {' '.join(f'{float(x):.3f}' for x in std)}"


# Checkpoints ----------------------------------------------------------------------------------------------------------


def find_checkpoints(given: Sequence[str]) -> dict[str, Path]:
    """Path by method, of words METHOD=PATH and of folders with a file or folder for each method, named after it."""
    found: dict[str, Path] = {}
    for word in given:
        name, is_pair, path = word.partition("=")
        if is_pair and name in methods():
            found[name] = Path(path).expanduser()
            continue
        folder = Path(word).expanduser()
        if not folder.is_dir():
            raise ValueError(
                f"--checkpoints {word}: no such folder, nor METHOD=PATH with one of {', '.join(methods())}"
            )
        here = {method_of(entry.name): entry for entry in sorted(folder.iterdir())}
        here.pop("", None)
        if not here:
            raise ValueError(f"--checkpoints {word}: nothing in it begins with a method's name; give METHOD=PATH")
        found |= here
    if missing := [path for path in found.values() if not path.exists()]:
        raise FileNotFoundError(f"No checkpoint at {missing[0]} (--checkpoints)")
    return found


def method_of(file: str) -> str:
    """The method whose name the file's begins with, in any case; "" if none."""
    fitting = [name for name in methods() if file.lower().startswith(name.lower())]
    return max(fitting, key=len, default="")
