"""Archives made in memory, and a look at what became of them."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest


def tar_of(files: dict[str, bytes], *members: tarfile.TarInfo) -> bytes:
    """An uncompressed tar archive of files, and of members without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in members:
            tar.addfile(member)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes], link: str = "") -> bytes:
    """A zip archive of files, of which ``link`` is marked as a symbolic link."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = (0o120777 if name == link else 0o100644) << 16
            zipped.writestr(member, content)
    return buffer.getvalue()


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was written to stderr, which must be one line."""
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    return text
