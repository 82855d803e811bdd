"""What was found beside what was expected: verdicts, the tasks that come to them, and what is kept between runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dassl.utils import is_user_error, read_json, reading, write_json

OK, WRONG, ABSENT = "ok", "WRONG", "not here"
DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")  # whole in the state file, in a line as far as people compare


@dataclass(frozen=True)
class Verdict:
    """One line. advice: what to do if it is wrong, or about what is not here."""

    state: str
    what: str
    found: str = ""
    expected: str = ""
    advice: str = ""

    def line(self, part: str) -> str:
        expected = f", expected {self.expected}" if self.expected and self.state != OK else ""
        advice = f"; {self.advice}" if self.advice and self.state != OK else ""
        return DIGEST.sub(r"\1...", f"{self.state:<8}  {part:<11}  {self.what}: {self.found}{expected}{advice}")


def verdict(what: str, found: object, expected: object, advice: str = "") -> Verdict:
    """ok if what was found is what was expected."""
    state = OK if found == expected else WRONG
    return Verdict(state, what, str(found), str(expected), advice)


def absent(what: str, why: str, advice: str = "") -> Verdict:
    return Verdict(ABSENT, what, why, advice=advice)


@dataclass(frozen=True)
class Task:
    """Something to verify. inputs: what the verdicts depend on, as plain data; as long as it is the same, what was all
    right stays so. Errors that a user can put right are verdicts too, about ``name``."""

    part: str
    name: str
    inputs: Callable[[], Any]
    work: Callable[[], Iterable[Verdict]]

    @property
    def key(self) -> str:
        return f"{self.part}: {self.name}"

    def verdicts(self) -> list[Verdict]:
        found = []
        try:
            for one in self.work():
                found.append(one)  # stays, whatever comes next
        except Exception as error:
            if not is_user_error(error):
                raise
            text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
            found.append(Verdict(WRONG, self.name, " ".join(text.split())))
        return found


class Memory:
    """What was verified, in a JSON file that is replaced as a whole after every task."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tasks: dict[str, Any] = {}
        if path.is_file():
            content = read_json(str(path))
            with reading(str(path), "the state of tools.verify", "delete it, and everything is verified anew"):
                for key, one in content.items():
                    self.tasks[key] = {"inputs": one["inputs"], "verdicts": [Verdict(**v) for v in one["verdicts"]]}

    def recall(self, task: Task, digest: str) -> list[Verdict]:
        """Verdicts of an earlier run with the same inputs in which nothing was wrong; else none."""
        kept = self.tasks.get(task.key, {})
        return kept["verdicts"] if kept.get("inputs") == digest else []

    def keep(self, task: Task, digest: str, verdicts: Sequence[Verdict]) -> None:
        """Only what needs no second look: a task that found something wrong or missing is done again."""
        if all(one.state == OK for one in verdicts):
            self.tasks[task.key] = {"inputs": digest, "verdicts": verdicts}
        else:
            self.tasks.pop(task.key, None)
        plain = {key: one | {"verdicts": [*map(asdict, one["verdicts"])]} for key, one in self.tasks.items()}
        write_json(plain, str(self.path))


def digest_of(inputs: Any) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def carry_out(tasks: Sequence[Task], memory: Memory) -> Counter[str]:
    """Print every verdict as it comes; how many there are of each kind."""
    counts: Counter[str] = Counter()
    bar = tqdm(tasks, "verifying", unit="task", disable=None)
    for task in bar:
        bar.set_postfix_str(task.key)
        digest = digest_of(task.inputs())
        known = memory.recall(task, digest)
        verdicts = known or task.verdicts()
        if not known:
            memory.keep(task, digest, verdicts)
        for one in verdicts:
            tqdm.write(one.line(task.part) + (" (verified before)" if known else ""))
        counts.update(one.state for one in verdicts)
    return counts


def stamp_of_file(path: str | Path) -> list[Any]:
    """Path, size and time."""
    status = os.stat(path)
    return [str(path), status.st_size, status.st_mtime_ns]


def stamp_of_folder(folder: Path, without: Sequence[str] = ()) -> str:
    """Digest of the path, size and time of every file, but for those in folders ``without`` directly inside."""
    digest = hashlib.sha256()
    bar = tqdm(desc=f"looking at {folder.name}", unit="file", unit_scale=True, leave=False, disable=None)
    with bar:
        for path, folders, files in os.walk(folder, followlinks=True):
            if Path(path) == folder:
                folders[:] = [name for name in folders if name not in without]
            folders.sort()
            for name in sorted(files):
                try:
                    status = os.stat(os.path.join(path, name))
                except FileNotFoundError:  # a link to nowhere, of which the reader will tell
                    continue
                digest.update(f"{path}\t{name}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
            bar.update(len(files))
    return digest.hexdigest()
