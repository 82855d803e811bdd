"""Tar files read at random: which members there are, and images by their place."""

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from dassl.data.datasets import Datum
from dassl.utils import decode_image

BLOCK, ZEROS = tarfile.BLOCKSIZE, bytes(tarfile.BLOCKSIZE)
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)  # they say more about the next member
USTAR = tarfile.POSIX_MAGIC[:6]
PLACE = re.compile(r"(?P<shard>.*\.tar):(?P<offset>\d+)\+(?P<size>\d+):(?P<name>[^/]*)")
LONGEST_EXTENSION = 1 << 20


class Member(NamedTuple):
    """A file in a tar file: its name, the position of its first byte, and how many bytes there are."""

    name: str
    offset: int
    size: int


def locate(shard: str, offset: int, size: int, name: str) -> str:
    """Place of an image in a tar file, as text: ``train-0000.tar:1536+20480:n01440764_10026.jpg``."""
    return f"{shard}:{offset}+{size}:{name}"


class TarImage(Datum):
    """An image in a tar file; ``impath`` is its place."""

    def load(self) -> Image.Image:
        place = PLACE.fullmatch(self.impath)
        try:
            handle = os.open(place["shard"], os.O_RDONLY)
        except FileNotFoundError:
            raise FileNotFoundError(f'No tar file at "{place["shard"]}"') from None
        try:
            content = os.pread(handle, int(place["size"]), int(place["offset"]))
        finally:
            os.close(handle)
        return decode_image(content, self.impath)


def members(path: Path) -> Iterator[Member]:
    """The files of an uncompressed tar file in their order; folders are left out.

    ``ValueError`` that names the file if it is cut short, is no such file, or holds a link or a device. ``tarfile``
    takes four times as long, and does not notice a file that is cut between two members.
    """
    at, name = 0, ""
    with open(path, "rb") as file:
        while (header := file.read(BLOCK)) != ZEROS:
            if len(header) < BLOCK:
                raise ValueError(f"{path} is cut short: it has no end of an archive")
            kind, size, start = header[156:157], _size(path, at, header), at + BLOCK
            at = start + -(-size // BLOCK) * BLOCK
            if kind in EXTENSIONS:
                name = _long_name(path, kind, file.read(min(size, LONGEST_EXTENSION))) or name
            elif kind in FILES:
                yield Member(name or _name(header), start, size)
                name = ""
            elif kind != tarfile.DIRTYPE:
                raise ValueError(f"{path} holds {name or _name(header)!r}, which is neither a file nor a folder")
            file.seek(at)


def _size(path: Path, at: int, header: bytes) -> int:
    try:
        if int(header[148:156].rstrip(b" \0"), 8) == sum(header) - sum(header[148:156]) + 8 * ord(" "):
            return int(header[124:136].rstrip(b" \0"), 8)
    except ValueError:
        pass
    raise ValueError(f"{path} is no tar file without compression, or damaged at byte {at}")


def _name(header: bytes) -> str:
    name, folder = header[:100], header[345:500] if header[257:263] == USTAR else b""
    return "/".join(os.fsdecode(part.split(b"\0")[0]) for part in (folder, name) if part[:1] not in (b"", b"\0"))


def _long_name(path: Path, kind: bytes, content: bytes) -> str:
    """The next member's name, if an extension says it. Of all else, only another size would matter; it is refused."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return os.fsdecode(content.rstrip(b"\0"))
    records = dict(record.split(b" ", 1)[-1].split(b"=", 1) for record in content.split(b"\n") if b"=" in record)
    if b"size" in records or any(key.startswith(b"GNU.sparse") for key in records):
        raise ValueError(f"{path} holds a member of 8 GB or more, or with holes, which no image is")
    return os.fsdecode(records.get(b"path", b"")) if kind == tarfile.XHDTYPE else ""
