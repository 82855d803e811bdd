"""The files of a data set: what is missing, and how it is found or downloaded, checked, unpacked and put in place."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import download_url
from datasets.splits import class_folders, list_images

from .archives import unpack
from .catalog import Entry, Part, Source

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")
DOWNLOADS = ".downloads"  # in the data set's folder; holds what an interrupted fetch continues
Report = Callable[[str], None]


def dataset_dir(name: str, root: Path) -> Path:
    """The folder of a data set below ``root``: one that its reader accepts, the family's where there is none."""
    names = DATASET_REGISTRY.get(name).dataset_dirs
    return next((root / each for each in names if (root / each).is_dir()), root / names[0])


def missing_paths(entry: Entry, folder: Path) -> list[str]:
    """What is not there. Looks at names only; ``verify`` counts the images."""
    missing = []
    for part in entry.parts:
        if not is_there(part, folder):
            absent = [path for path in part.paths if not is_filled(folder / path)]
            missing += absent or [f"{part.paths[0]} in class folders"]
    return missing


def is_there(part: Part, folder: Path) -> bool:
    """Whether all paths of a part, or its one path in another accepted place, exist and are not empty."""
    check = has_class_folders if part.class_folders else is_filled
    return all(check(folder / path) for path in part.paths) or any(check(folder / path) for path in part.accepts)


def is_filled(path: Path) -> bool:
    """Whether a file has a size or a folder an entry that is not hidden."""
    if path.is_dir():
        return any(not entry.startswith(".") for entry in os.listdir(path))
    return path.is_file() and path.stat().st_size > 0


def has_class_folders(path: Path) -> bool:
    """Whether a folder holds folders, and no images beside them that are still to be sorted into them."""
    return path.is_dir() and bool(class_folders(path)) and not list_images(path)


def fetch_part(part: Part, folder: Path, report: Report) -> bool:
    """Get a missing part from the first source that works; reports what went wrong with the others."""
    for source in part.sources:
        try:
            with archive_or_file(source, part, folder, report) as path:
                put_in_place(path, source, part, folder)
        except (OSError, ValueError) as error:
            report(f"{source.file}: {error}")
        else:
            report(f"{', '.join(part.paths)}: now in {folder}")
            return True
    return False


@contextmanager
def archive_or_file(source: Source, part: Part, folder: Path, report: Report) -> Iterator[Path]:
    """The file of a source: what lies in the folder, or a download that is deleted after it was used or is bad."""
    found = find_file(source, part, folder)
    if found:
        report(f"using {found}")
        check_digest(found, source.digest)
        yield found
        return
    if source.url.startswith("manual:"):
        raise FileNotFoundError(f"cannot be downloaded without an account, and is not in {folder}")
    path = download_path(source, folder)
    try:
        if not path.exists():
            report(f"downloading {source.url}{'' if source.digest else ' (no checksum is published)'}")
            download(source.url, path)
        check_digest(path, source.digest)
        yield path
    except ValueError:
        path.unlink(missing_ok=True)
        raise
    finally:
        if is_there(part, folder):
            for each in part.sources:
                shutil.rmtree(download_path(each, folder).parent, ignore_errors=True)
        for emptied in (path.parent, path.parent.parent):
            if emptied.is_dir() and not os.listdir(emptied):
                emptied.rmdir()


def download_path(source: Source, folder: Path) -> Path:
    """Where a download goes; each source has its own place, or partial files of different ones would be mixed."""
    return folder / DOWNLOADS / hashlib.sha256(source.url.encode()).hexdigest()[:8] / source.file


def find_file(source: Source, part: Part, folder: Path) -> Path | None:
    """A file with the source's name that somebody put into the folder, or where its content belongs."""
    if source.file in part.paths:
        return None
    places = (folder, (folder / part.paths[0]).parent)
    return next((place / source.file for place in places if (place / source.file).is_file()), None)


def download(url: str, path: Path, token: str = "", show_progress: bool | None = None) -> None:
    """Download to ``path``, from where an earlier attempt ended, as long as the server goes on sending."""
    if url.startswith("gdrive:"):
        download_from_drive(url.removeprefix("gdrive:").split("/")[0], path)
        return
    partial = path.with_name(f"{path.name}.part")
    while True:
        before = size_of(partial)
        try:
            download_url(url, str(path), token=token, show_progress=show_progress)
            return
        except OSError:
            if size_of(partial) <= before:
                raise


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def download_from_drive(file_id: str, path: Path) -> None:
    """A file on Google Drive; ``OSError`` if Google refuses, which it does after many downloads in a day."""
    try:
        import gdown
    except ImportError:
        raise OSError("is on Google Drive; 'pip install \"gdown>=6\"' first") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    link = f"https://drive.google.com/file/d/{file_id}/view"
    partial = path.with_name(f"{path.name}.drive")
    try:
        gdown.download(id=file_id, output=str(partial), resume=True)
    except (gdown.exceptions.DownloadError, OSError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"Google Drive: {reason}; or open {link} and put the file in place by hand") from error
    os.replace(partial, path)


def check_digest(path: Path, digest: str) -> None:
    """``ValueError`` unless the file has the digest; without one, if it is a web page in place of the file."""
    if not digest:
        with open(path, "rb") as file:
            start = file.read(200).lstrip().lower()
        if start.startswith((b"<!doctype html", b"<html")):
            raise ValueError("the server sent a web page in place of the file")
        return
    algorithm, _, expected = digest.partition(":")
    hasher = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    if hasher.hexdigest() != expected:
        raise ValueError(f"has {algorithm.upper()} {hasher.hexdigest()}, expected {expected}")


def put_in_place(path: Path, source: Source, part: Part, folder: Path) -> None:
    """Move a file, or what is wanted of an archive, to where it belongs. All or nothing for each path."""
    if not source.file.endswith(ARCHIVES):
        os.replace(path, folder / part.paths[0])
        return
    with scratch_folder(folder) as scratch:
        for place, target in unpack_part(path, source, part, scratch):
            move(place, folder / target)


def unpack_part(archive: Path, source: Source, part: Part, scratch: Path) -> list[tuple[Path, str]]:
    """Unpack what a part consists of; pairs of where it is now and its path in the data set's folder."""
    outer, _, inner = source.inner.rpartition("!")
    if outer:
        unpack(archive, scratch / "outer", [outer])
        archive = scratch / "outer" / outer
        if not archive.is_file():
            raise ValueError(f"the archive holds no {outer}")
    names = [inner.format(path) for path in part.paths]
    content = scratch / "content"
    unpack(archive, content, names)
    absent = [name for name in names if not is_filled(content / name)]
    if absent:
        raise ValueError(f"the archive holds no {', '.join(absent)}")
    return [(content / name, path) for name, path in zip(names, part.paths)]


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A folder on the same disk that is empty at first and gone afterwards."""
    scratch = folder / ".unpacking"
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed fetch
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def move(source: Path, target: Path) -> None:
    """Rename, unless the target is there."""
    if is_filled(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)  # it holds hidden files at most
    os.replace(source, target)
