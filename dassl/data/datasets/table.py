"""Millions of items without millions of objects."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Generic, TypeVar, overload

__all__ = ["Table", "Without", "class_sizes", "one_per_class"]

T = TypeVar("T")
U = TypeVar("U")


class Table(Sequence[T], Generic[T]):
    """Items in the order of their classes, each made when it is asked for. It can stand wherever a list of items can.

    groups: label and rows of each class. Rows are whole numbers in any sequence; a ``range`` takes no memory.
    make:   ``make(row, label)`` is the item; data loaders that start afresh need one that can be pickled.
    """

    def __init__(self, groups: Iterable[tuple[int, Sequence[int]]], make: Callable[[int, int], T]) -> None:
        self.groups = [(label, rows) for label, rows in groups if len(rows)]
        self.make = make
        self._ends = list(accumulate(len(rows) for _, rows in self.groups))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        place = range(len(self))[at]
        if isinstance(place, range):
            return [self[i] for i in place]
        group = bisect_right(self._ends, place)
        label, rows = self.groups[group]
        return self.make(rows[place - self._ends[group] + len(rows)], label)

    def __iter__(self) -> Iterator[T]:
        return (self.make(row, label) for label, rows in self.groups for row in rows)

    def map(self, function: Callable[[T], U]) -> "Table[U]":
        """The table of ``function(item)``."""
        return Table(self.groups, partial(_then, function, self.make))

    def by_label(self) -> "dict[int, Table[T]]":
        """The items of each label."""
        return {label: Table([(label, rows)], self.make) for label, rows in self.groups}

    def relabel(self, new_label: dict[int, int]) -> "Table[T]":
        """The items whose labels are keys of ``new_label``, with the labels given there."""
        return Table([(new_label[label], rows) for label, rows in self.groups if label in new_label], self.make)


class Without(Sequence[int]):
    """Rows without those at the positions ``left_out``; takes memory for these alone."""

    def __init__(self, rows: Sequence[int], left_out: Iterable[int]) -> None:
        self.rows = rows
        self._kept_before = [at - i for i, at in enumerate(sorted(left_out))]  # rows kept before each one left out

    def __len__(self) -> int:
        return len(self.rows) - len(self._kept_before)

    def __getitem__(self, at: int) -> int:
        if not 0 <= at < len(self):
            raise IndexError(at)
        return self.rows[at + bisect_right(self._kept_before, at)]


def one_per_class(items: Iterable[Any]) -> list[Any]:
    """Items that have every label and class name among ``items``: the first of each class of a table, else all."""
    return [group[0] for group in items.by_label().values()] if isinstance(items, Table) else list(items)


def class_sizes(items: Iterable[Any]) -> Counter[int]:
    """Number of items of each label."""
    if isinstance(items, Table):
        return Counter({label: len(rows) for label, rows in items.groups})
    return Counter(item.label for item in items)


def _then(function: Callable[[T], U], make: Callable[[int, int], T], row: int, label: int) -> U:
    return function(make(row, label))
