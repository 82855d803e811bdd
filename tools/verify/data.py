"""The data sets that are there: counts, class names, template, split file and few-shot picks."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs import ROOT as CONFIGS
from dassl.config import merge_from_file, merge_from_list
from dassl.data.datasets import DATASET_REGISTRY
from datasets.checks import first
from datasets.imagenet import ImageNetShift, WordNetFolders, read_classnames
from datasets.index import INDEX_DIR
from tools.data.catalog import CATALOG
from tools.data.commands import BUILT_IN
from tools.data.files import dataset_dir, is_there, missing_paths
from tools.data.verify import Check, compare
from trainers.load import default_config

from .expected import stems
from .verdicts import ABSENT, OK, WRONG, Verdict, absent, stamp_of_folder

OURS = (INDEX_DIR, "split_fewshot")  # folders that reading a data set leaves in it
FACTS = ("classes", "train", "val", "test", "classnames_sha256", "template")
SAYS = {
    "classnames_sha256": "class names",
    "split_sha256": "split file",
    "template": "template",
    "classes": "number of classes",
}
ADVICE = {
    "classnames_sha256": "other names, or the same in another order",
    "split_sha256": "not the authors' split: 'python -m tools.data fetch {name} --only splits' gets it",
    "template": "results with another wording are not those that are printed",
    "classes": "class folders are missing, or too many",
}
IMAGES = "images are missing, or too many: is the archive unpacked completely?"


def state(name: str, root: Path | None) -> tuple[str, str]:
    """ok, WRONG if it is there in part, or not here; and why."""
    if name in BUILT_IN:
        return OK, ""
    if root is None:
        return ABSENT, "no --root is given"
    folder = dataset_dir(name, root)
    missing = missing_paths(CATALOG[name], folder)
    if not missing:
        return OK, ""
    is_partial = any(is_there(part, folder) for part in CATALOG[name].parts)
    return WRONG if is_partial else ABSENT, f"no {', '.join(missing)} in {folder}"


def stamp(name: str, root: Path | None) -> str:
    """Of all files of a data set; "" if it has none."""
    folder = None if name in BUILT_IN or root is None else dataset_dir(name, root)
    return stamp_of_folder(folder, OURS) if folder and folder.is_dir() else ""


def verify_data(name: str, root: Path | None, known: Mapping[str, Any], opts: Sequence[str]) -> Iterator[Verdict]:
    condition, why = state(name, root)
    if condition != OK:
        yield Verdict(condition, name, why, advice=f"'python -m tools.data fetch {name}' gets it")
        return
    if not known:
        yield absent(name, "nothing is known of it")
        return
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = read(name, root, opts)
        checks = compare(dataset, dict(known))
        missing = without_folder(dataset, known.get("classes"))
    wrong = [of_check(name, check, missing) for check in checks if not check.passed and not is_pick(check)]
    picks = [check for check in checks if is_pick(check)]
    if late := [check.what for check in picks if not check.passed]:
        found = f"{len(picks) - len(late)} of {len(picks)} as published, not {late[0]}"
        wrong.append(
            Verdict(WRONG, f"{name}, few-shot picks", found, f"{len(picks)}", ADVICE["split_sha256"].format(name=name))
        )
    yield from wrong or [Verdict(OK, name, summary(checks))]


def is_pick(check: Check) -> bool:
    return " shots, " in check.what


def summary(checks: Sequence[Check]) -> str:
    """All that is right, in a line."""
    found = {check.what: check.found for check in checks if not is_pick(check)}
    counts = [f"{int(found[part]):,} {part}" for part in ("train", "val", "test") if part in found]
    others = [says for what, says in SAYS.items() if what in found and what != "classes"]
    others += [f"{len(checks) - len(found)} few-shot picks"] if len(checks) > len(found) else []
    classes = [f"{int(found['classes']):,} classes"] if "classes" in found else []
    return "; ".join(", ".join(some) for some in (classes, counts, others) if some)


def read(name: str, root: Path | None, opts: Sequence[str]) -> Any:
    """The data set, as training reads it with its settings file and ``opts``."""
    cfg = default_config()
    merge_from_file(cfg, str(CONFIGS / "datasets" / f"{stems()[name]}.yaml"))
    merge_from_list(cfg, [*opts])
    cfg.DATASET.ROOT = str(root or "")
    cfg.DATASET.NUM_SHOTS = -1
    return DATASET_REGISTRY.get(name)(cfg)


def without_folder(dataset: Any, classes: int | None) -> list[str]:
    """Names of ImageNet's classes that a relative of it should have, and has not."""
    if not isinstance(dataset, (WordNetFolders, ImageNetShift)):
        return []
    names = read_classnames(dataset.dataset_dir).values()
    return [name for name in names if name not in dataset.classnames] if len(names) == classes else []


def of_check(name: str, check: Check, missing: Sequence[str]) -> Verdict:
    says = SAYS.get(check.what, f"{check.what} images" if check.what in ("train", "val", "test") else check.what)
    advice = ADVICE.get(check.what, IMAGES).format(name=name)
    if check.what == "classes" and missing:
        advice = f"there is no class folder of {first(missing)}"
    return Verdict(OK if check.passed else WRONG, f"{name}, {says}", check.found, check.expected, advice)
