"""What a run tells: through ``logging`` to stdout, which is copied into a log file with all that others print."""

import logging
import os
import sys
import time
from typing import IO, Any

from tqdm import tqdm

from dassl.utils.tools import mkdir_if_missing

__all__ = ["Logger", "log", "setup_logger"]


class _Stdout(logging.Handler):
    """Writes to what ``sys.stdout`` is at the time, above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


# The lines are the field's, which its parsers read, so they carry no time or level. Shown unless a program says
# otherwise: log.setLevel(logging.WARNING).
log = logging.getLogger("dassl")
log.setLevel(logging.INFO)
log.addHandler(_Stdout())
log.propagate = False


class Logger:
    """A text stream that writes to the console and, line by line, to a file.

    Everything else (``isatty``, ``fileno``, ``encoding``, ...) is the console's. The console is never closed.
    """

    def __init__(self, fpath: str | None = None) -> None:
        self.console: IO[str] = sys.stdout
        self.file: IO[str] | None = None
        if fpath is not None:
            mkdir_if_missing(os.path.dirname(fpath))
            self.file = open(fpath, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (lives as long as the run)

    def write(self, text: str) -> int:
        if self.file is not None:
            self.file.write(text)
        return self.console.write(text)

    def flush(self) -> None:
        self.console.flush()
        if self.file is not None:
            self.file.flush()
            os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file; the console stays open and goes on receiving what is written."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if "file" in self.__dict__:
            self.close()

    def __getattr__(self, name: str) -> Any:
        if name == "console":  # not there yet: do not look for it in itself
            raise AttributeError(name)
        return getattr(self.console, name)


def setup_logger(output: str | None = None) -> None:
    """Send stdout also to ``output`` if it ends in .txt or .log, else to ``<output>/log.txt``.

    An existing file is kept: the new one gets the suffix ``-YYYY-mm-dd-HH-MM-SS``. A second call replaces the first
    one's file. stderr (progress bars, warnings, errors) is not logged.
    """
    if output is None:
        return
    path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    if os.path.exists(path):
        path += time.strftime("-%Y-%m-%d-%H-%M-%S")
    if isinstance(sys.stdout, Logger):
        sys.stdout.close()
        sys.stdout = sys.stdout.console
    sys.stdout = Logger(path)
