"""What ``python -m tools.data`` does: list, fetch, verify, shard, words."""

import argparse
import re
import sys
import textwrap
from pathlib import Path

from tabulate import tabulate

from configs import ROOT as CONFIGS
from dassl.config import load_yaml
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import read_json
from dassl.utils.registry import UnknownNameError, nearest_names
from datasets import EMBEDDED
from datasets.imagenet import WordNetFolders

from .catalog import CATALOG
from .fetch import fetch
from .files import dataset_dir, is_there, missing_paths
from .shard_fetcher import fetch_shards
from .shard_writer import shard
from .verify import FINGERPRINTS, Check, verify

BUILT_IN = {dataset.__name__: dataset for dataset in EMBEDDED}


def list_all(args: argparse.Namespace) -> int:
    rows = [published_row(name, args.root) for name in CATALOG] + [built_in_row(name) for name in BUILT_IN]
    print(tabulate(rows, headers=("name", "classes", "images", "GB", "terms", "to get it", f"in {args.root}")))
    return 0


def published_row(name: str, root: Path) -> list[object]:
    entry, known, reader = CATALOG[name], read_json(str(FINGERPRINTS))[name], DATASET_REGISTRY.get(name)
    if reader.test_only:
        images = known["test"]
    else:  # ImageNet's val images are its test images
        images = known["train"] + known["test"] + (0 if issubclass(reader, WordNetFolders) else known["val"])
    size = "?" if entry.size_gb is None else f"{entry.size_gb:g}"
    return [name, known["classes"], f"{images:,}", size, entry.terms, entry.how, state(name, root)]


def built_in_row(name: str) -> list[object]:
    dataset = BUILT_IN[name]
    splits = ("test",) if dataset.test_only else ("train", "val", "test")
    images = sum(len(dataset.rows(split)) for split in splits)
    return [name, len(dataset.classes()), f"{images:,}", 0, "as this code", "built in", "complete"]


def state(name: str, root: Path) -> str:
    """complete, absent, or partial and what is missing."""
    folder = dataset_dir(name, root)
    missing = missing_paths(CATALOG[name], folder)
    if not missing:
        return "complete"
    if not any(is_there(part, folder) for part in CATALOG[name].parts):
        return "absent"
    return f"partial: no {', '.join(missing)}"


def fetch_all(args: argparse.Namespace) -> int:
    status = 0
    if args.shards:
        if [resolve(name) for name in args.name] != ["ImageNet21K"]:
            raise ValueError("--shards goes with ImageNet21K alone")
        fetch_shards(args.shards, dataset_dir("ImageNet21K", args.root), args.token_env, args.jobs, args.dry_run)
    for name in [resolve(name) for name in args.name]:
        if name in BUILT_IN:
            print(f"{name} is rendered when it is used: nothing to fetch")
            continue
        try:
            fetch(name, args.root, args.only, args.dry_run)
        except (OSError, ValueError) as error:  # the others may still be had
            status = complain(error)
    return status


def write_shards(args: argparse.Namespace) -> int:
    shard(args.source, args.into, args.name, args.per_shard, args.synsets)
    return 0


def verify_all(args: argparse.Namespace) -> int:
    results = [verify_one(name, args.root) for name in map(resolve, args.name)]
    return 0 if all(results) else 1


def verify_one(name: str, root: Path) -> bool:
    """Print a report on one data set; whether all is as it should be."""
    if name in BUILT_IN:
        print(f"{name} is rendered when it is used: nothing to verify")
        return True
    folder = dataset_dir(name, root)
    missing = missing_paths(CATALOG[name], folder)
    if missing:
        print(f"{name}: no {', '.join(missing)} in {folder}; 'python -m tools.data fetch {name}'")
        return False
    try:
        checks = verify(name, str(root))
    except (OSError, ValueError, KeyError) as error:
        print(f"{name}: FAILED: {error}")
        return False
    print_report(name, checks)
    return all(check.passed for check in checks)


def print_report(name: str, checks: list[Check]) -> None:
    """Sizes and hashes one by one; few-shot picks as a count, and those that differ."""
    picks = [check for check in checks if " shots, " in check.what]
    rows = [
        (check.what, "ok" if check.passed else "DIFFERS", check.found, "" if check.passed else check.expected)
        for check in checks
        if check not in picks or not check.passed
    ]
    print(tabulate(rows, headers=(name, "", "found", "expected")))
    if picks:
        print(f"few-shot picks as published: {sum(check.passed for check in picks)} of {len(picks)}")


def resolve(name: str) -> str:
    """Registry name of a registry name in any case or of a config's stem; ``KeyError`` with the nearest names."""
    names = {known.lower(): known for known in (*CATALOG, *BUILT_IN)}
    config = CONFIGS / "datasets" / f"{name}.yaml"
    if config.is_file():
        name = load_yaml(config)["DATASET"]["NAME"]
    if name.lower() in names:
        return names[name.lower()]
    near = nearest_names(name, names.values()) or list(names.values())
    raise UnknownNameError(f"no data set {name!r}; did you mean {', '.join(near)}?")


def list_words(_: argparse.Namespace) -> int:
    """Print the words, sorted, whose tokens the tiny CLIP has; all that it has were in the texts of its making."""
    from clip.clip import load_model
    from clip.simple_tokenizer import tokenizer
    from datasets.embedded.scenes import PLURALS
    from tools.tiny_clip import other_texts

    known = load_model("tiny").known_tokens
    words = {word for text in [*other_texts(), *PLURALS.values()] for word in re.findall(r"[a-z]+|[0-9]", text.lower())}
    print("\n".join(textwrap.wrap(" ".join(sorted(w for w in words if known[tokenizer().encode(w)].all())), 100)))
    return 0


def complain(error: Exception) -> int:
    """Print an error as one line; the exit status for it."""
    print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
