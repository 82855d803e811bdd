"""Download tar shards: many files from one place, each whole or not at all, many at once.

They are stored, and not streamed into training: few-shot picks, a global shuffle, its share of each process and an
exact resume need every image at hand; and 5 to 20 epochs would fetch the terabyte as many times.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from dassl.utils import sole_user_of
from datasets.imagenet_21k import ImageNet21K
from datasets.tars import members

from .files import DOWNLOADS, download

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
HUGGING_FACE, ITS_TOKEN = "huggingface.co", "HF_TOKEN"


def fetch_shards(urls: list[str], folder: Path, token_env: str | None, jobs: int, dry_run: bool) -> None:
    """Get the shards that are missing. ``OSError`` that names the first that could not be got, after all were tried.

    A shard that is there is not asked for again; one that was interrupted goes on where it ended.
    """
    into = folder / ImageNet21K.shard_dir
    missing = {into / name_of(url): url for pattern in urls for url in expand(pattern)}
    total = len(missing)
    missing = {path: url for path, url in missing.items() if not path.exists()}
    print(f"{total - len(missing)} of {total} files are in {into}")
    if dry_run or not missing:
        return
    tokens = {urlsplit(url).netloc: token_for(url, token_env) for url in missing.values()}
    failed: list[str] = []
    with sole_user_of(str(into)), ThreadPoolExecutor(max(1, jobs)) as pool:

        def get(path: Path) -> str:
            try:
                fetch_shard(missing[path], path, tokens[urlsplit(missing[path]).netloc])
            except (OSError, ValueError) as error:
                return str(error)
            return ""

        try:
            bar = tqdm(pool.map(get, missing), str(into), len(missing), unit=" files", disable=None)
            failed = [error for error in bar if error]
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
        if (into / DOWNLOADS).is_dir() and not os.listdir(into / DOWNLOADS):
            (into / DOWNLOADS).rmdir()
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise OSError(f"{failed[0]}{more}; what arrived is kept: call again to go on{advice(failed[0])}")


def fetch_shard(url: str, path: Path, token: str) -> None:
    """One file: complete, and if it is a tar file readable to its end, before it appears."""
    partial = path.parent / DOWNLOADS / path.name
    if not partial.exists():
        download(url, partial, token, show_progress=False)
    if path.suffix == ".tar":
        try:
            for _ in members(partial):
                pass
        except ValueError as error:
            partial.unlink()
            raise ValueError(f"{url} is not what it should be: {error}; it was removed") from error
    os.replace(partial, path)


def advice(error: str) -> str:
    """What to do where a server wants to know who asks."""
    if "401" not in error and "403" not in error:
        return ""
    return ". The server wants a token: accept the terms on the data set's page, and set HF_TOKEN (or see --token-env)"


def expand(pattern: str) -> list[str]:
    """``a-{08..10}.tar`` is a-08.tar, a-09.tar, a-10.tar. ``ValueError`` for what is no http(s) address of a file."""
    if urlsplit(pattern).scheme not in ("http", "https") or not name_of(pattern):
        raise ValueError(f"{pattern!r} is no https://... address of a file")
    match = RANGE.search(pattern)
    if not match:
        return [pattern]
    start, end = match.groups()
    numbers = [f"{number:0{len(start)}d}" for number in range(int(start), int(end) + 1)]
    if not numbers:
        raise ValueError(f"{pattern!r}: the range {match[0]} is empty")
    return [url for number in numbers for url in expand(pattern[: match.start()] + number + pattern[match.end() :])]


def name_of(url: str) -> str:
    """File name, without the query."""
    return urlsplit(url).path.rpartition("/")[2]


def token_for(url: str, token_env: str | None) -> str:
    """The token for a server; none is sent unless it is asked for, or it is that of Hugging Face."""
    parts = urlsplit(url)
    if token_env is None:
        return os.environ.get(ITS_TOKEN, "") if parts.netloc == HUGGING_FACE and parts.scheme == "https" else ""
    if token_env not in os.environ:
        raise ValueError(f"--token-env: there is no environment variable {token_env}")
    return os.environ[token_env]
