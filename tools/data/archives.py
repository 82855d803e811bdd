"""Unpack archives that strangers made: nothing is written outside the folder, and only what is wanted."""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm


def unpack(archive: Path, into: Path, wanted: Sequence[str]) -> None:
    """Unpack the ``wanted`` files and folders of a zip or tar archive (any compression); ``.`` is all of it.

    ``ValueError`` if the archive is damaged, or holds an absolute path, a ``..``, a link that leads out of the folder
    or a device, wanted or not. What was unpacked until then stays in ``into``.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                unpack_zip(zipped, into, wanted)
        else:
            with tarfile.open(archive) as tar:
                unpack_tar(tar, into, wanted)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}") from error
    except UnsafeNameError as error:
        raise ValueError(f"{archive} is not safe to unpack: {error}") from error


class UnsafeNameError(ValueError):
    """A member of an archive that would be written outside the folder."""


def unpack_tar(tar: tarfile.TarFile, into: Path, wanted: Sequence[str]) -> None:
    for member in tqdm(iter(tar.next, None), desc="unpacking", unit=" files", leave=False, disable=None):
        check_name(member.name)
        tarfile.data_filter(member, str(into))  # links and devices, of unwanted members too
        if is_wanted(member.name, wanted):
            tar.extract(member, into, filter="data")
        tar.members.clear()  # or the index of ten million files fills the memory


def unpack_zip(zipped: zipfile.ZipFile, into: Path, wanted: Sequence[str]) -> None:
    for member in tqdm(zipped.infolist(), desc="unpacking", unit=" files", leave=False, disable=None):
        check_name(member.filename)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UnsafeNameError(f"{member.filename!r} is a symbolic link")
        if is_wanted(member.filename, wanted):
            zipped.extract(member, into)


def check_name(name: str) -> None:
    """``UnsafeNameError`` for a name that does not stay below the folder, on Windows included."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise UnsafeNameError(f"{name!r} leads out of the folder")


def is_wanted(name: str, wanted: Sequence[str]) -> bool:
    """Whether a member is one of ``wanted`` or lies below one."""
    path = PurePosixPath(name)
    return any(prefix in (path, *path.parents) for prefix in map(PurePosixPath, wanted))
