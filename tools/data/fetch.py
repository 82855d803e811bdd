"""Get whatever is missing of a data set."""

from pathlib import Path

from . import imagenet
from .catalog import CATALOG
from .files import Report, dataset_dir, fetch_part, is_there


def fetch(name: str, root: Path, only: str = "", dry_run: bool = False, report: Report = print) -> None:
    """Get whatever is missing of a data set, or only its ``splits`` or ``images``.

    What is there stays as it is. ``ValueError`` that names what could not be got, and how people get it.
    """
    entry, folder = CATALOG[name], dataset_dir(name, root)
    if name == "ImageNet" and only != "splits":
        imagenet.prepare(folder, report, dry_run)
    parts = [part for part in entry.parts if not only or part.is_split == (only == "splits")]
    if not parts:
        report(f"{name} has no split file: its publishers' lists come with the images")
    failed = []
    for part in parts:
        paths = ", ".join(part.paths)
        if is_there(part, folder):
            report(f"{paths}: already in {folder}")
        elif dry_run:
            report(f"{paths}: would come from {' or '.join(source.url for source in part.sources)}")
        elif not fetch_part(part, folder, report):
            failed.append(paths)
    if failed:
        raise ValueError(f"{name}: could not get {', '.join(failed)} ({folder}). {entry.advice}".rstrip())
