"""Tables stand wherever lists of items do, and give what the lists give."""

import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dassl.data.datasets import DatasetBase, Datum, Table, Without, class_sizes, one_per_class

SIZES = {0: 30, 1: 3, 2: 50, 4: 17}


def make(row: int, label: int) -> Datum:
    return Datum(f"{row}.png", label, 0, f"class {row // 100}")


def table() -> Table[Datum]:
    starts = [100, 200, 300, 400]
    return Table([(label, range(at, at + SIZES[label])) for label, at in zip(SIZES, starts)] + [(7, range(0))], make)


def as_list() -> list[Datum]:
    return [make(at + i, label) for label, at in zip(SIZES, (100, 200, 300, 400)) for i in range(SIZES[label])]


def test_a_table_reads_like_a_list() -> None:
    items, expected = table(), as_list()
    assert len(items) == len(expected) == 100
    assert list(items) == expected == [items[i] for i in range(100)]
    assert items[-1] == expected[-1] and items[3:90:13] == expected[3:90:13]
    with pytest.raises(IndexError):
        items[100]
    assert not Table([], make) and len(Table([], make)) == 0
    assert list(pickle.loads(pickle.dumps(items))) == expected


def test_a_mapped_table() -> None:
    paths = table().map(_path)
    assert list(paths) == [item.impath for item in as_list()]
    assert pickle.loads(pickle.dumps(paths))[5] == "105.png"


def _path(item: Datum) -> str:
    return item.impath


def test_a_data_set_of_tables_is_that_of_lists() -> None:
    of_tables, of_lists = DatasetBase(train_x=table(), test=table()), DatasetBase(train_x=Fake.of(as_list()))
    assert of_tables.num_classes == of_lists.num_classes == 5
    assert of_tables.lab2cname == of_lists.lab2cname and of_tables.classnames == of_lists.classnames
    assert class_sizes(table()) == class_sizes(as_list()) == SIZES
    assert len(one_per_class(table())) == 4 and len(one_per_class(as_list())) == 100


class Fake(Datum):
    """Not a file."""

    @classmethod
    def of(cls, items: list[Datum]) -> list[Datum]:
        return [cls(item.impath, item.label, item.domain, item.classname) for item in items]

    def load(self) -> None: ...


@pytest.mark.parametrize("shots", [1, 4, 16])
def test_picks_are_those_of_the_list(shots: int) -> None:
    for repeat in (False, True):
        random.seed(3)
        expected = DatasetBase.generate_fewshot_dataset(as_list(), num_shots=shots, repeat=repeat)
        random.seed(3)
        assert DatasetBase.generate_fewshot_dataset(table(), num_shots=shots, repeat=repeat) == expected


@pytest.mark.parametrize("half", ["base", "new"])
def test_halves_of_the_classes(half: str) -> None:
    expected = DatasetBase.subsample_classes(as_list(), as_list()[:60], subsample=half)
    found = DatasetBase.subsample_classes(table(), as_list()[:60], subsample=half)
    assert list(found[0]) == expected[0] and found[1] == expected[1]


@given(st.integers(0, 30), st.data())
def test_rows_without_some(length: int, data: st.DataObject) -> None:
    left_out = data.draw(st.sets(st.integers(0, length - 1))) if length else set()
    expected = [10 + at for at in range(length) if at not in left_out]
    rows = Without(range(10, 10 + length), left_out)
    assert list(rows) == expected and len(rows) == len(expected)
    assert [rows[at] for at in range(len(rows))] == expected
