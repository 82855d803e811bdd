import copy
import hashlib
import random

import pytest
from PIL import Image

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum, build_dataset, fewshot_hash
from tests.dassl.toy import CLASSNAMES, Squares, squares, toy_cfg


class Item(Datum):
    def load(self) -> Image.Image:
        return Image.new("RGB", (1, 1))


def items(*counts: int) -> list[Datum]:
    """``counts[n]`` items of label n; the path is the position within its label."""
    return [Item(str(i), label, 0, f"class_{label}") for label, count in enumerate(counts) for i in range(count)]


def positions(picked: list[Datum]) -> list[int]:
    return [int(item.impath) for item in picked]


# Published draws: one generator, seeded freshly, k of range(n).
DRAWS = [
    (1, 20, 4, [4, 18, 2, 8]),
    (2, 20, 4, [1, 2, 18, 11]),
    (3, 20, 4, [7, 18, 17, 4]),
    (1, 40, 16, [8, 36, 4, 16, 7, 31, 28, 30, 24, 25, 6, 3, 15, 0, 12, 13]),
    (2, 40, 16, [3, 5, 38, 23, 10, 19, 16, 13, 2, 18, 21, 37, 32, 20, 12, 36]),
    (3, 40, 16, [15, 37, 34, 8, 23, 30, 4, 0, 38, 36, 17, 7, 6, 22, 39, 29]),
    (1, 1300, 16, [275, 1165, 129, 522, 241, 1014, 920, 967, 777, 429, 192, 999, 58, 798, 886, 1244]),
    (2, 1300, 16, [115, 187, 173, 739, 346, 631, 515, 1240, 434, 1242, 73, 1190, 324, 882, 805, 1042]),
    (3, 1300, 16, [487, 1213, 1114, 267, 757, 1236, 970, 1281, 1189, 134, 1240, 26, 960, 531, 1128, 479]),
]


class TestFewShot:
    @pytest.mark.parametrize(("seed", "n", "k", "expected"), DRAWS)
    def test_one_class_is_drawn_as_published(self, seed, n, k, expected):
        random.seed(seed)
        assert positions(DatasetBase.generate_fewshot_dataset(items(n), num_shots=k)) == expected

    @pytest.mark.parametrize(
        ("seed", "expected"),
        [
            (1, [4, 18, 27, 25, 24, 2, 8, 3, 7, 9, 8, 5]),
            (2, [27, 1, 2, 11, 26, 5, 23, 25, 4, 9, 3, 8]),
            (3, [7, 18, 17, 4, 11, 29, 19, 15, 9, 1, 0, 6]),
        ],
    )
    def test_classes_and_sources_share_one_generator(self, seed, expected):
        random.seed(seed)
        assert positions(DatasetBase.generate_fewshot_dataset(items(30, 30, 10), num_shots=4)) == expected
        random.seed(seed)
        train, val = DatasetBase.generate_fewshot_dataset(items(30, 30), items(10), num_shots=4)
        assert positions(train + val) == expected

    def test_classes_come_in_the_order_of_their_first_item(self):
        source = items(3, 3, 3)
        mixed = [source[i] for i in (7, 1, 4, 8, 0, 2, 3, 5, 6)]
        picked = DatasetBase.generate_fewshot_dataset(mixed, num_shots=2)
        assert [item.label for item in picked] == [2, 2, 0, 0, 1, 1]

    def test_a_small_class_is_taken_whole_and_draws_nothing(self):
        random.seed(5)
        state = random.getstate()
        source = items(3)
        assert DatasetBase.generate_fewshot_dataset(source, num_shots=4) == source
        assert random.getstate() == state
        assert len(DatasetBase.generate_fewshot_dataset(source, num_shots=4, repeat=True)) == 4
        assert random.getstate() != state

    def test_no_shots_return_the_sources(self):
        a, b = items(2), items(3)
        assert DatasetBase.generate_fewshot_dataset(a, num_shots=0) is a
        assert DatasetBase.generate_fewshot_dataset(a, b) == [a, b]


class TestBaseAndNew:
    def test_halves_of_an_odd_number_of_classes(self):
        source = [Item(str(label), label, 3, f"c{label}") for label in (4, 0, 2, 1, 3)]
        (base,) = DatasetBase.subsample_classes(source, subsample="base")
        (new,) = DatasetBase.subsample_classes(source, subsample="new")
        assert [(item.impath, item.label) for item in base] == [("0", 0), ("2", 2), ("1", 1)]
        assert [(item.impath, item.label) for item in new] == [("4", 1), ("3", 0)]
        assert {item.domain for item in base + new} == {0} and type(base[0]) is Item
        assert source[0].label == 4 and source[0].domain == 3

    def test_the_first_source_decides(self):
        train = [Item("t", label, 0, "") for label in (0, 5, 7, 9)]
        test = [Item("x", label, 0, "") for label in (9, 8, 7, 5)]
        new_train, new_test = DatasetBase.subsample_classes(train, test, subsample="new")
        assert [item.label for item in new_train] == [0, 1] and [item.label for item in new_test] == [1, 0]

    def test_all_and_bad_values(self):
        source = items(1)
        assert DatasetBase.subsample_classes(source, source) == [source, source]
        with pytest.raises(ValueError, match='"all", "base" or "new", but got "old"'):
            DatasetBase.subsample_classes(source, subsample="old")
        with pytest.raises(ValueError, match="1 class"):
            DatasetBase.subsample_classes(source, subsample="new")


class TestDatum:
    def test_equality_copy_and_text(self):
        item = Datum("a/b.jpg", 3, 1, "cat")
        assert repr(item) == "Datum(impath='a/b.jpg', label=3, domain=1, classname='cat')"
        assert item == copy.copy(item) and hash(item) == hash(copy.copy(item))
        assert item != item.relabel(2) and item != "a/b.jpg"
        with pytest.raises(TypeError, match="3"):
            Datum(3)
        with pytest.raises(AttributeError):
            item.label = 1

    def test_load_opens_the_file(self, tmp_path):
        Image.new("L", (2, 3)).save(tmp_path / "a.png")
        assert Datum(str(tmp_path / "a.png")).load().mode == "RGB"


class TestDatasetBase:
    def test_classes_come_from_train_x(self):
        data = DatasetBase(train_x=items(1, 0, 2)[::-1], test=items(1, 1, 1, 1))
        assert data.num_classes == 3 and data.lab2cname == {0: "class_0", 2: "class_2"}
        assert data.classnames == ["class_0", "class_2"] and data.val is None
        mapping, names = DatasetBase.get_lab2cname(data.test)
        assert len(mapping) == 4 and names[3] == "class_3"

    def test_missing_files_are_counted_and_shown(self, tmp_path):
        Image.new("RGB", (2, 2)).save(tmp_path / "0.png")
        source = [Datum(str(tmp_path / f"{i}.png"), 0, 0, "x") for i in range(6)]
        with pytest.raises(FileNotFoundError) as caught:
            DatasetBase(train_x=source, test=source)
        message = str(caught.value)
        assert "5 of 6" in message and "3.png" in message and "4.png" not in message and "2 more" in message

    def test_splitting(self):
        source = [Item("a", 1, 0), Item("b", 0, 1), Item("c", 1, 1)]
        assert {k: len(v) for k, v in DatasetBase.split_dataset_by_label(source).items()} == {1: 2, 0: 1}
        assert list(DatasetBase.split_dataset_by_domain(source)) == [0, 1]

    def test_domains(self):
        data = DatasetBase(train_x=items(1))
        data.domains = ["photo"]
        data.check_input_domains(["photo"], [])
        with pytest.raises(ValueError, match="sketch"):
            data.check_input_domains(["photo"], ["sketch"])

    def test_build(self, capsys):
        assert build_dataset(toy_cfg("x", "DATASET.NUM_SHOTS", 2)).classnames == CLASSNAMES
        assert capsys.readouterr().out.splitlines() == ["Loading dataset: Squares", "Creating a 2-shot dataset"]
        with pytest.raises(ValueError, match=r"do you mean \[Squares\]"):
            build_dataset(toy_cfg("x", "DATASET.NAME", "Square"))
        assert DATASET_REGISTRY.get("Squares") is Squares


def test_fewshot_hash_is_of_relative_paths():
    source = [Item("/data/x/a.jpg"), Item("/data/x/b/c.jpg")]
    assert fewshot_hash(source, "/data/x/") == hashlib.sha256(b"a.jpg\nb/c.jpg").hexdigest()
    assert fewshot_hash(source, "/data") == hashlib.sha256(b"x/a.jpg\nx/b/c.jpg").hexdigest()
    assert fewshot_hash(source[::-1]) != fewshot_hash(source)
    assert fewshot_hash(squares("t", 1)) == hashlib.sha256(b"t/0/0\nt/1/0\nt/2/0").hexdigest()
