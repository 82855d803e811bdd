"""Classify images with trained prompts, for any class names.

    python predict.py --model-dir output/run --images photo.jpg holiday/              # the classes of its training
    python predict.py --model-dir output/run --images photo.jpg holiday/ --classes cat dog "fire engine"
    python predict.py --backbone ViT-B/16 --images photos/ --classes cat dog          # zero-shot, nothing trained
    python predict.py --model-dir output/run --classes cat dog --export classifier.safetensors

An image that cannot be read is told on standard error and left out. Exit status: 0 if all images were classified, 1 if
some could not be read, 2 if none could, or for a mistake in the command.

The exported file holds unit-norm ``text_features`` (C, E) and ``logit_scale``: logit_scale * normalised image features
@ text_features.T in any CLIP library gives the same logits. So it is written only where prompts act on the text alone.
Its metadata tell method, backbone, class names, wording (``[v1]`` is the first learned token), and the images' size,
mean and std.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate
from tqdm import tqdm

from dassl.utils import BrokenImageError, atomic_write, exit_status, read_image, read_text, set_exact_fp32
from tools.command import add_import, import_all

# What needs torch is imported by the functions that use it: it takes seconds, and a usage needs none of it.
if TYPE_CHECKING:
    from PIL import Image

    from trainers import PromptedCLIP


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", default="", help="folder of a training run; without it zero-shot CLIP is used")
    add_import(parser)
    parser.add_argument("--load-epoch", type=int, help="epoch to load (default: the best model, else the newest)")
    parser.add_argument("--backbone", default="", help="CLIP model for zero-shot prediction (default: tiny)")
    parser.add_argument("--classes", nargs="+", default=[], help="class names (default: those of the training)")
    parser.add_argument("--classnames-file", default="", help="text file with one class name per line")
    parser.add_argument("--images", nargs="+", default=[], help="image files and folders of images")
    parser.add_argument("--topk", type=int, default=3, help="classes to show per image")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    parser.add_argument("--export", default="", help="write the text classifier to this safetensors file")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs that change the run's config")
    return parser.parse_args(argv)


def load(args: argparse.Namespace, classnames: Sequence[str]) -> PromptedCLIP:
    """The run's classifier; without a run zero-shot CLIP."""
    from trainers import load_classifier

    import_all(args.imports)
    if args.model_dir and args.backbone:
        raise ValueError("--backbone is for zero-shot prediction; a run given by --model-dir has its own")
    if args.load_epoch is not None and not args.model_dir:
        raise ValueError("--load-epoch is for the run that --model-dir names")
    return load_classifier(args.model_dir or args.backbone or "tiny", classnames, args.load_epoch, args.opts)


def find_images(paths: Sequence[str]) -> list[Path]:
    """Files as given and the images in folders, recursively, sorted; FileNotFoundError for what is not there."""
    from datasets.splits import IMAGE_SUFFIXES

    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"No image or folder {path} (--images)")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise FileNotFoundError(f"No images in {path} (looked for {', '.join(IMAGE_SUFFIXES)})")
        found += inside
    return found


def predict(
    classifier: PromptedCLIP, images: Sequence[Path], topk: int, batch_size: int
) -> Iterator[dict[str, object]]:
    """Per readable image its path and the ``topk`` class names with probabilities, best first."""
    for start in tqdm(range(0, len(images), batch_size), desc="predict", disable=None):
        readable = [(path, image) for path in images[start : start + batch_size] if (image := readable_image(path))]
        for (path, _), best in zip(readable, classifier.predict([image for _, image in readable], topk, batch_size)):
            names, probabilities = zip(*best)
            yield {"image": str(path), "classes": [*names], "probabilities": [*probabilities]}


def readable_image(path: Path) -> Image.Image | None:
    """The image, or None and a line on standard error."""
    try:
        return read_image(str(path))
    except (BrokenImageError, FileNotFoundError) as error:
        tqdm.write(f"Left out: {error}", file=sys.stderr)
        return None


def check_exportable(classifier: PromptedCLIP) -> None:
    """ValueError unless CLIP's own image encoder and one feature per class give the method's logits."""
    import torch

    size = classifier.clip.visual.input_resolution
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(classifier.device)
    try:
        with torch.no_grad():
            features, text = classifier.encode_image(image), classifier.text_features
            alone = classifier.cosine_logits(features, text)
            if torch.equal(classifier.features(image)[0], features) and torch.allclose(alone, classifier(image)):
                return
        reason = "it acts on the image side as well, and with CLIP's own the text features would classify wrongly"
    except ValueError as error:
        reason = str(error)
    raise ValueError(
        f"{type(classifier.method).__name__}'s text classifier cannot be exported: {reason}. Classify with predict.py"
        " --images"
    )


def export(classifier: PromptedCLIP, path: str) -> None:
    """Write the text classifier; ValueError if it is none on its own."""
    import torch
    from safetensors.torch import save

    check_exportable(classifier)
    with torch.no_grad():
        tensors = {"text_features": classifier.text_features, "logit_scale": classifier.clip.logit_scale.exp()}
    name, file = classifier.clip.source
    metadata = {
        "method": type(classifier.method).__name__,
        "backbone": name or file,
        "classnames": json.dumps(classifier.classnames),
        "wording": json.dumps(wording(classifier)),
        "image_size": str(classifier.clip.visual.input_resolution),
        "mean": json.dumps(classifier.pixel_mean),
        "std": json.dumps(classifier.pixel_std),
    }
    with atomic_write(path) as file:
        file.write(save({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}, metadata))
    print(f"Text classifier of {len(classifier.classnames)} classes written to {path}")


def wording(classifier: PromptedCLIP) -> list[str]:
    """The texts that a class name ``{}`` is put into: hand-written templates, or one with learned tokens [v1], [v2]."""
    from clip.simple_tokenizer import tokenizer

    if templates := getattr(classifier.method, "templates", None):
        return list(templates(classifier))
    name = "zebra"  # any word of one token that no phrase has
    texts = classifier.method.wording([name], classifier.template)
    ids = texts.ids[0, 1 : texts.lengths[0] - 1].tolist()
    words = [f"[v{-i}]" if i < 0 else tokenizer().decode([i]).strip() for i in ids]
    return [" ".join("{}" if word == name else word for word in words).replace(" .", ".")]


def show(rows: list[dict[str, object]], form: str) -> None:
    if form == "json":
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    cells = [[row["image"], *(x for pair in zip(row["classes"], row["probabilities"]) for x in pair)] for row in rows]
    header = ["image"] + [
        f"{what} {k + 1}" for k in range((len(cells[0]) - 1) // 2) for what in ("class", "probability")
    ]
    if form == "csv":
        csv.writer(sys.stdout).writerows([header, *cells])
    else:
        print(tabulate(cells, header, floatfmt=".3f"))


def run(args: argparse.Namespace) -> int:
    """Exit status: 1 if some images could not be read, else 0."""
    from dassl.data.datasets import check_classnames

    classnames = list(args.classes)
    if args.classnames_file:
        lines = read_text(args.classnames_file).splitlines()
        classnames += [line.strip() for line in lines if line.strip()]
    if not classnames and not args.model_dir:
        raise ValueError("Give class names: --classes cat dog, or --classnames-file names.txt")
    check_classnames(classnames, "--classes, --classnames-file")
    if not args.images and not args.export:
        raise ValueError("Nothing to do: give --images, or --export")
    if args.topk < 1 or args.batch_size < 1:
        raise ValueError("--topk and --batch-size must be at least 1")
    set_exact_fp32()
    images = find_images(args.images)
    with redirect_stdout(sys.stderr):  # standard output carries the result alone
        classifier = load(args, classnames)
        if args.export:
            check_exportable(classifier)
        rows = list(predict(classifier, images, args.topk, args.batch_size))
        if images and not rows:
            raise ValueError(f"none of the {len(images)} images can be read")
        if args.export:
            export(classifier, args.export)
    if rows:
        show(rows, args.format)
    return int(len(rows) < len(images))


def main(argv: list[str] | None = None) -> int:
    return exit_status(lambda: run(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
