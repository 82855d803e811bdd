"""Names to classes."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Registry", "UnknownNameError", "check_availability", "get_most_similar_str_to_a_from_b", "nearest_names"]


class UnknownNameError(KeyError):
    """A ``KeyError`` whose text is printed as it is, not as the representation of a key."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Registry:
    """Classes or functions by name, in the order of their registration.

    Used as a decorator, ``@REGISTRY.register()``, or as a call, ``REGISTRY.register(obj)``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._objects: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Callable[[Any], Any] | None:
        """Store an object under its ``__name__``; ``KeyError`` if that name is taken, unless ``force``."""
        if obj is not None:
            self._store(obj, force)
            return None

        def decorator(decorated: Any) -> Any:
            self._store(decorated, force)
            return decorated

        return decorator

    def get(self, name: str) -> Any:
        """The object of that name, or a ``KeyError`` that offers the nearest names."""
        if name not in self._objects:
            near = nearest_names(name, self._objects)
            hint = f"; nearest: {', '.join(near)}" if near else f"; available: {', '.join(self._objects) or 'none'}"
            raise UnknownNameError(f'Object name "{name}" does not exist in "{self._name}" registry{hint}')
        return self._objects[name]

    def registered_names(self) -> list[str]:
        return list(self._objects)

    def __contains__(self, name: str) -> bool:
        return name in self._objects

    def _store(self, obj: Any, force: bool) -> None:
        name = obj.__name__
        if name in self._objects and not force:
            raise UnknownNameError(f'An object named "{name}" was already registered in "{self._name}" registry')
        self._objects[name] = obj


def nearest_names(name: str, available: Iterable[str], count: int = 3) -> list[str]:
    """Up to ``count`` names that resemble ``name``, letter case aside, best first."""
    by_lower = {candidate.lower(): candidate for candidate in available}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=count, cutoff=0.5)]


def get_most_similar_str_to_a_from_b(a: str, b: Iterable[str]) -> str | None:
    """The string of ``b`` with the largest difflib ratio to ``a``; ``None`` for none."""
    best, highest = None, -1.0
    for candidate in b:
        ratio = difflib.SequenceMatcher(None, a, candidate).ratio()
        if ratio >= highest:
            best, highest = candidate, ratio
    return best


def check_availability(requested: str, available: Iterable[str]) -> None:
    """``ValueError`` with the available names and the most similar one, unless ``requested`` is among them."""
    available = list(available)
    if requested not in available:
        similar = get_most_similar_str_to_a_from_b(requested, available)
        raise ValueError(
            f"The requested one is expected to belong to {available}, but got [{requested}] (do you mean [{similar}]?)"
        )
