"""When a run keeps its state in the middle of an epoch, and what it needs to go on as if nothing had been."""

import contextlib
import random
import signal
import threading
import time
from types import FrameType
from typing import Any

import numpy as np
import torch

__all__ = ["Watch", "generator_states", "restore_generators"]

ENDING, ASKING = (signal.SIGINT, signal.SIGTERM), signal.SIGUSR1


class Watch(contextlib.AbstractContextManager):
    """Tells after each step whether it is time to save: every so many steps or minutes (0: never), or for a signal.

    Inside its ``with`` block SIGUSR1 asks for a checkpoint, SIGTERM and SIGINT for one and the end of the run, which
    ``ending``, the signal's number, tells. A second one of these ends the process at once.
    """

    def __init__(self, steps: int, minutes: float) -> None:
        self.steps, self.minutes = steps, minutes
        self.ending = 0
        self._before: dict[int, Any] = {}
        self.saved()

    def __enter__(self) -> "Watch":
        self.saved()
        if threading.current_thread() is threading.main_thread():  # others get no signals
            for number in (*ENDING, ASKING):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, _: FrameType | None) -> None:
        if number == ASKING:
            self._is_asked = True
        else:
            self.ending = number
            signal.signal(number, self._before[number])

    def is_due(self) -> bool:
        """To be called once after each step."""
        self._steps += 1
        by_steps = self.steps > 0 and self._steps >= self.steps
        return self._is_asked or by_steps or 0 < 60 * self.minutes <= time.monotonic() - self._time

    def saved(self) -> None:
        """Steps and minutes count from here."""
        self._steps, self._time, self._is_asked = 0, time.monotonic(), False


def generator_states() -> dict[str, Any]:
    """Of all global generators, as plain data and tensors."""
    name, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    return {**states, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else states


def restore_generators(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"])
