"""The two ways of cutting a list of images."""

from collections import Counter

import pytest

from datasets.splits import Item, hold_out_val, split_classes


def items(*counts: int) -> list[Item]:
    return [Item(f"{label}/{i}.jpg", label, f"class {label}") for label, n in enumerate(counts) for i in range(n)]


@pytest.mark.parametrize(
    ("n", "sizes"), [(4, (2, 1, 1)), (5, (2, 1, 2)), (7, (4, 1, 2)), (15, (8, 3, 4)), (100, (50, 20, 30))]
)
def test_half_a_fifth_and_the_rest(n: int, sizes: tuple[int, int, int]) -> None:
    split = split_classes(items(n, 100))
    assert tuple(Counter(item.label for item in part)[0] for part in split) == sizes
    assert sorted(item for part in split for item in part) == sorted(items(n, 100))


def test_cut_depends_on_the_seed_alone() -> None:
    data = items(30, 30)
    assert split_classes(data, seed=1) == split_classes(items(30, 30), seed=1) != split_classes(data, seed=2)
    assert data == items(30, 30), "the list handed in is left as it is"


def test_a_fifth_of_each_class_is_held_out() -> None:
    train = items(10, 13)
    split = hold_out_val(list(reversed(train)), items(3, 3))
    assert [item.label for item in split.val] == [1] * 3 + [0] * 2, "classes in order of first appearance"
    assert sorted(split.train + split.val) == sorted(train)
    assert split.test == items(3, 3)
    with pytest.raises(ValueError, match=r"class 'class 1' has 2 training images, too few to hold out 20 %"):
        hold_out_val(items(10, 2), [])
