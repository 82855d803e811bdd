"""Files, folders, images, seeds and downloads."""

import errno
import hashlib
import io
import json
import os
import platform
import random
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import IO, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

__all__ = [
    "BrokenImageError",
    "atomic_write",
    "collect_env_info",
    "decode_image",
    "derive_seed",
    "download_url",
    "exit_status",
    "is_user_error",
    "mkdir_if_missing",
    "read_image",
    "read_json",
    "read_text",
    "reading",
    "set_exact_fp32",
    "set_random_seed",
    "sha256_of",
    "tolist_if_not",
    "write_json",
]


def is_user_error(error: BaseException) -> bool:
    """Whether a user can put it right: then a program ends in one line, without a traceback."""
    if isinstance(error, RuntimeError):
        import torch  # here and below, not at the top: it takes seconds, and a usage or a table needs none of it

        return isinstance(error, torch.OutOfMemoryError)
    return isinstance(error, (ValueError, KeyError, OSError, FloatingPointError))


def exit_status(run: Callable[[], int | None]) -> int:
    """Run a program's work; returns its exit status: 2 after a user's error, told in one line, 130 after Ctrl-C."""
    try:
        return run() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_user_error(error):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"{type(error).__name__}: {text}", file=sys.stderr)
        return 2


def mkdir_if_missing(dirname: str) -> None:
    """Make a folder and its parents; an existing one, or "" (the current folder), is fine."""
    if dirname:
        os.makedirs(dirname, exist_ok=True)


def tolist_if_not(x: Any) -> list[Any]:
    """``x`` if it is a list, else a list of ``x`` alone (a tuple too)."""
    return x if isinstance(x, list) else [x]


@contextmanager
def atomic_write(path: str, mode: str = "wb", make_room: Callable[[], None] = lambda: None) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that takes its place when the block ends without an error.

    make_room: called when the new file is complete, before it takes the place.

    Whatever happens, ``path`` is either the complete old file or the complete new one. Raises ``OSError`` that names
    ``path`` if the disk is full or not writable.
    """
    directory, name = os.path.split(os.path.abspath(path))
    mkdir_if_missing(directory)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=f".{name}.", suffix=".tmp")
        with open(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes it private; an ordinary file is not
        make_room()
        os.replace(temporary, path)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        state = "the previous file is unchanged" if os.path.exists(path) else "nothing was written"
        raise OSError(error.errno, f"cannot write: {what}; {state}", path) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.remove(temporary)


@contextmanager
def reading(path: str, what: str, remedy: str = "") -> Iterator[None]:
    """Whatever the content of a damaged file leads to inside becomes one ``ValueError`` line that names the file.

    what: what the file should be, "a checkpoint"; remedy: what to do. A file that is not there, or not allowed to be
    read, stays its own error.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:
        why = " ".join(str(error).split())
        why = why if isinstance(error, ValueError) else f"{type(error).__name__}: {why}"
        remedy = f"; {remedy}" if remedy else ""
        raise ValueError(f'"{path}" is not {what}: {why[:300]}{remedy}') from error


def read_text(path: str) -> str:
    """A text file's content, without a byte order mark; ``ValueError`` naming the file if it is not UTF-8."""
    with reading(path, "a text file in UTF-8", "save it in that encoding"), open(path, encoding="utf-8-sig") as file:
        return file.read()


def read_json(fpath: str) -> Any:
    """The content of a JSON file; ``ValueError`` naming the file if it is not JSON in UTF-8."""
    text = read_text(fpath)
    with reading(fpath, "valid JSON"):
        return json.loads(text)


def write_json(obj: Any, fpath: str) -> None:
    """Write ``obj`` with an indentation of 4, atomically, making the parent folder."""
    with atomic_write(fpath, "w") as file:
        json.dump(obj, file, indent=4, separators=(",", ": "))


class BrokenImageError(ValueError):
    """An image file that cannot be decoded. The message names the file."""

    def __str__(self) -> str:
        # A loader's worker process wraps the message in its traceback: keep what comes after it.
        return super().__str__().strip().rsplit("BrokenImageError: ", 1)[-1]


def read_image(path: str) -> Image.Image:
    """An image file as RGB. ``FileNotFoundError``, or ``BrokenImageError`` if it is truncated or no image."""
    try:
        return _decode(path, path)
    except FileNotFoundError:
        raise FileNotFoundError(f'No image at "{path}"') from None


def decode_image(content: bytes, name: str) -> Image.Image:
    """An image in memory as RGB; ``BrokenImageError`` that says ``name`` if it is truncated or no image."""
    return _decode(io.BytesIO(content), name)


def _decode(source: str | IO[bytes], name: str) -> Image.Image:
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenImageError(f'Cannot read the image "{name}": {error}') from error


def set_random_seed(seed: int) -> None:
    """Seed Python, NumPy and torch (CPU and every CUDA device). Sets no determinism flag."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_exact_fp32() -> None:
    """No TF32 (10 bits of mantissa) on a GPU: not in matrix products, nor in convolutions, where it is the default."""
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def derive_seed(*numbers: int) -> int:
    """A 32-bit seed that is a function of ``numbers``, unrelated to those of neighbouring numbers."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4], "little")


def collect_env_info() -> str:
    """The machine and the versions that results depend on; the last line is Pillow's, as the family's logs end it."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines = [
        f"PyTorch version: {torch.__version__}",
        f"torchvision version: {version('torchvision')}",
        f"NumPy version: {np.__version__}",
        f"Python version: {platform.python_version()}",
        f"OS: {platform.platform()}",
        f"CUDA of PyTorch: {torch.version.cuda}, cuDNN: {torch.backends.cudnn.version()}",
        f"GPUs: {', '.join(gpus) or 'none'}",
        f"CPU: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    ]
    return "\n".join(lines) + f"\n        Pillow ({Image.__version__})"


def sha256_of(path: str) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def download_url(
    url: str, dst: str, sha256: str | None = None, token: str = "", show_progress: bool | None = None
) -> None:
    """Download ``url`` to the file ``dst``, resuming ``<dst>.part`` of an earlier attempt.

    token: sent as a bearer token to the server that ``url`` names, and to none that it refers to.
    show_progress: None where there is a terminal.

    ``dst`` appears only when it is complete and, if ``sha256`` is given, has that digest; otherwise ``OSError``
    (network, size) or ``ValueError`` (digest; the partial file is removed).
    """
    partial = f"{dst}.part"
    mkdir_if_missing(os.path.dirname(dst))
    _fetch(url, partial, token, show_progress)
    if sha256 is not None and sha256_of(partial) != sha256:
        received = sha256_of(partial)
        os.remove(partial)
        raise ValueError(f"{url} has SHA-256 {received}, expected {sha256}; the download was removed, try again")
    os.replace(partial, dst)


def _fetch(url: str, partial: str, token: str, show_progress: bool | None) -> None:
    have = os.path.getsize(partial) if os.path.exists(partial) else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            if have and response.status != 206:  # the server does not resume
                have = 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            name, hidden = os.path.basename(partial)[:-5], None if show_progress is None else not show_progress
            bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=name, disable=hidden)
            with open(partial, "ab" if have else "wb") as file, bar:
                while chunk := response.read(1 << 20):
                    file.write(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing left to send: the partial file is complete
            return
        raise OSError(f"cannot download {url}: {error}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise OSError(f"cannot download {url}: {error}; call again to resume") from error
    received = os.path.getsize(partial)
    if total is not None and received != total:
        raise OSError(f"{url}: the connection ended after {received} of {total} bytes; call again to resume")
