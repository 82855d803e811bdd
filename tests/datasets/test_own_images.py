"""One's own images: folders and lists, class-name maps, automatic splits, and the messages on bad input."""

import json
import random
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from datasets import duplicates
from tests.datasets.layouts import picture, write
from tests.datasets.reading import read, rows


def photo(*words: object) -> bytes:
    """A picture that no other words have; decoders do not read what stands behind its end."""
    return picture(str(words[0])) + repr(words).encode()


def photos(folder: Path, counts: dict[str, int], kind: str = "jpg") -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            write(folder / name / f"{i:02d}.{kind}", photo(folder.name, name, i))
    return folder


def folder(path: Path, **settings: object):
    return read("Folder", PATH=path, **settings)


def write_list(path: Path, lines: list[str]) -> Path:
    for line in lines[1:]:
        image = path.parent / line.replace(";", ",").split(",")[0]
        write(image, photo(image.parent.name, image.name))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_folders_are_cut_by_the_runs_seed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = photos(tmp_path / "photos", {"cat": 10, "Dog": 20, "red_fox": 4})
    before = sorted(tmp_path.rglob("*"))
    dataset = folder(path, SEED=1)
    assert dataset.classnames == ["Dog", "cat", "red_fox"]
    assert Counter(d.label for d in dataset.train_x) == {0: 10, 1: 5, 2: 2}
    assert Counter(d.label for d in dataset.val) == {0: 4, 1: 2, 2: 1}
    assert Counter(d.label for d in dataset.test) == {0: 6, 1: 3, 2: 1}
    parts = [{d.impath for d in part} for part in (dataset.train_x, dataset.val, dataset.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 34
    assert rows(folder(path, SEED=1), "test") == rows(dataset, "test") != rows(folder(path, SEED=2), "test")
    assert rows(folder(path, SEED=-1), "test") == rows(folder(path, SEED=0), "test")
    folder(path, SEED=1, NUM_SHOTS=1)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["1", "cat", "5", "2", "3"] in table
    assert ["all", "classes", "17", "7", "10"] in table


def test_train_val_test_folders(tmp_path: Path) -> None:
    for part, count in {"train": 3, "valid": 2, "test": 1}.items():
        photos(tmp_path / part, {"a": count, "b": count}, kind="PNG")
    write(tmp_path / "train/a/nested/deep.webp", b"")
    write(tmp_path / "train/a/notes.txt", b"")
    dataset = folder(tmp_path)
    assert [len(part) for part in (dataset.train_x, dataset.val, dataset.test)] == [7, 4, 2]
    assert rows(dataset, "test") == [["test/a/00.PNG", 0, "a"], ["test/b/00.PNG", 1, "b"]]
    assert ["train/a/nested/deep.webp", 0, "a"] in rows(dataset, "train_x")


def test_without_test_folder_val_is_test(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for part in ("train", "val"):
        photos(tmp_path / part, {"a": 6, "b": 6})
    dataset = folder(tmp_path, NUM_SHOTS=2)
    assert dataset.val is dataset.test
    assert len(dataset.test) == 12
    assert "the val images serve as val and as test" in capsys.readouterr().out


def test_without_val_folder_there_is_no_val(tmp_path: Path) -> None:
    for part in ("train", "test"):
        photos(tmp_path / part, {"a": 6, "b": 6})
    dataset = folder(tmp_path, NUM_SHOTS=2)
    assert not dataset.val
    assert [len(dataset.train_x), len(dataset.test)] == [4, 12]


def test_only_a_train_folder_is_cut(tmp_path: Path) -> None:
    photos(tmp_path / "train", {"a": 10, "b": 10})
    assert [len(part) for part in (folder(tmp_path).train_x, folder(tmp_path).test)] == [10, 6]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert folder(photos(tmp_path, {"bus": 4, "train": 4})).classnames == ["bus", "train"]


def test_shots_base_and_new(tmp_path: Path) -> None:
    path = photos(tmp_path, {name: 10 for name in "abcde"})
    full = rows(folder(path), "train_x")
    random.seed(1)
    picks = [row for name in "abcde" for row in random.sample([row for row in full if row[2] == name], 2)]
    assert rows(folder(path, NUM_SHOTS=2), "train_x") == picks
    new = folder(path, NUM_SHOTS=2, SUBSAMPLE_CLASSES="new")
    assert new.classnames == ["d", "e"]
    assert rows(new, "train_x") == [[image, label - 3, name] for image, label, name in picks if label >= 3]


def test_at_most_four_validation_images_are_drawn_after_the_training_images(tmp_path: Path) -> None:
    path = photos(tmp_path, {"a": 40, "b": 40})
    full, few = folder(path), folder(path, NUM_SHOTS=16)
    random.seed(1)
    for part, count in (("train_x", 16), ("val", 4)):
        groups = [[row for row in rows(full, part) if row[2] == name] for name in "ab"]
        assert rows(few, part) == [row for group in groups for row in random.sample(group, count)]
    assert rows(few, "test") == rows(full, "test")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.csv", 'folder,name\nn01,tench\nn02,"shark, great white"\n'),
        ("names.csv", "\ufeffn02;shark, great white\nn01;tench\nn99;unused\n"),
        ("names.json", '{"n01": "tench", "n02": "shark, great white"}'),
    ],
)
def test_class_name_maps(name: str, content: str, tmp_path: Path) -> None:
    path = photos(tmp_path / "photos", {"n01": 4, "n02": 4})
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert folder(path, CLASSNAMES=tmp_path / name).classnames == ["tench", "shark, great white"]


def test_template(tmp_path: Path) -> None:
    path = photos(tmp_path, {"a": 4, "b": 4})
    assert folder(path).template == "a photo of a {}."
    assert folder(path, TEMPLATE="an x-ray of {}").template == "an x-ray of {}"


@pytest.mark.parametrize("separator", [",", ";"])
def test_csv_list(separator: str, tmp_path: Path) -> None:
    lines = ["Path, Classname ,split,camera", "a/1.jpg,dog,train,x", "a/2.jpg,cat,train,x", "b/3.jpg,cat,val,y"]
    lines += ["b/4.jpg,dog,TEST,y"]
    path = write_list(tmp_path / "list.csv", [line.replace(",", separator) for line in lines])
    dataset = read("CSV", PATH=path)
    assert dataset.classnames == ["cat", "dog"]
    assert rows(dataset, "train_x") == [["a/1.jpg", 1, "dog"], ["a/2.jpg", 0, "cat"]]
    assert (rows(dataset, "val"), rows(dataset, "test")) == ([["b/3.jpg", 0, "cat"]], [["b/4.jpg", 1, "dog"]])


def test_json_list_with_numbers_as_labels(tmp_path: Path) -> None:
    records = [{"path": f"{i}.jpg", "label": [2, 10][i % 2], "classname": ["two", "ten"][i % 2]} for i in range(20)]
    for record in records:
        write(tmp_path / record["path"], photo(record["path"]))
    (tmp_path / "list.json").write_text(json.dumps(records))
    dataset = read("CSV", PATH=tmp_path / "list.json")
    assert dataset.classnames == ["two", "ten"], "numbers are sorted as numbers"
    assert [len(part) for part in (dataset.train_x, dataset.val, dataset.test)] == [10, 4, 6]


def test_csv_with_absolute_paths_and_a_map(tmp_path: Path) -> None:
    path = photos(tmp_path / "photos", {"a": 4, "b": 4})
    lines = ["path,label"] + [f"{image},{image.parent.name}" for image in sorted(path.rglob("*.jpg"))]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/list.csv").write_text("\n".join(lines))
    (tmp_path / "names.json").write_text('{"a": "apple", "b": "bee"}')
    dataset = read("CSV", PATH=tmp_path / "lists/list.csv", CLASSNAMES=tmp_path / "names.json")
    assert dataset.classnames == ["apple", "bee"]
    assert dataset.train_x[0].load().size == (12, 8)


def test_class_names_in_other_alphabets(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    decomposed = unicodedata.normalize("NFD", "café")  # as some file systems store it
    path = photos(tmp_path / "photos", {"猫": 4, decomposed: 4, "собака": 4})
    dataset = folder(path)
    assert dataset.classnames == ["café", "собака", "猫"]
    assert "class names in other alphabets: собака, 猫 (DATASET.CLASSNAMES" in capsys.readouterr().out
    (tmp_path / "names.json").write_text('{"猫": "cat", "собака": "dog", "café": "coffee house"}', encoding="utf-8")
    assert folder(path, CLASSNAMES=tmp_path / "names.json").classnames == ["coffee house", "dog", "cat"]


def test_numbers_as_class_names_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder(photos(tmp_path, {"0": 4, "1": 4}))
    assert "these are numbers: 0, 1" in capsys.readouterr().out


def test_a_loop_of_links_is_walked_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = photos(tmp_path / "photos", {"a": 6, "b": 4})
    (path / "a/loop").symlink_to(path / "a")
    dataset = folder(path)
    assert sum(label == 0 for part in ("train_x", "val", "test") for _, label, _ in rows(dataset, part)) == 6
    assert "a/loop" in capsys.readouterr().out
    assert folder(path, DUPLICATES="allow").num_classes == 2, "never followed"


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    path = photos(tmp_path / "photos", {"a": 4, "b": 4})
    photos(tmp_path / "elsewhere", {"more": 6})
    (path / "a/more").symlink_to(tmp_path / "elsewhere/more")
    dataset = folder(path)
    assert sum(len(rows(dataset, part)) for part in ("train_x", "val", "test")) == 14


def test_copies_within_a_class_count_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """They are dropped before the class is cut, or one would be tested on what one has trained on."""
    path = photos(tmp_path / "photos", {"a": 6, "b": 6})
    alone = [rows(folder(path), part) for part in ("train_x", "val", "test")]
    for i in range(6):
        shutil.copy(path / f"a/{i:02d}.jpg", path / f"a/copy {i}.jpg")
    (path / "b/link.jpg").symlink_to("00.jpg")
    (path / "b/twin.jpg").hardlink_to(path / "b/01.jpg")
    capsys.readouterr()
    assert [rows(folder(path), part) for part in ("train_x", "val", "test")] == alone
    said = capsys.readouterr().out
    assert "8 files are left out: 8 images are there more than once" in said and "a/00.jpg = a/copy 0.jpg" in said
    assert len(folder(path, DUPLICATES="allow").train_x) == 10


def test_one_image_in_two_classes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = photos(tmp_path / "photos", {"a": 6, "b": 6})
    shutil.copy(path / "a/03.jpg", path / "b/x.jpg")
    (path / "b/y.jpg").symlink_to(path / "a/04.jpg")
    match = r"2 images are in several classes: a/03.jpg = b/x.jpg, a/04.jpg = b/y.jpg. .*DATASET.DUPLICATES drop"
    expect(ValueError, match, PATH=path)
    capsys.readouterr()
    kept = folder(path, DUPLICATES="drop")
    said = capsys.readouterr().out
    assert "a/03.jpg = b/x.jpg" in said and "4 files are left out: 2 images are in several classes" in said
    found = {image for part in ("train_x", "val", "test") for image, _, _ in rows(kept, part)}
    assert len(found) == 10 and not found & {"a/03.jpg", "b/x.jpg", "a/04.jpg", "b/y.jpg"}, "no label can be right"
    assert sum(len(rows(folder(path, DUPLICATES="allow"), part)) for part in ("train_x", "val", "test")) == 14
    expect(
        ValueError, "DATASET.DUPLICATES must be one of refuse, drop, allow, got 'keep'", PATH=path, DUPLICATES="keep"
    )


def test_one_image_in_training_and_test_is_refused(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        photos(tmp_path / part, {"a": 4, "b": 4})
    shutil.copy(tmp_path / "train/a/00.jpg", tmp_path / "test/a/x.jpg")
    shutil.copy(tmp_path / "train/b/00.jpg", tmp_path / "val/b/x.jpg")
    match = r"2 images are in several of train, val and test: train/a/00.jpg = test/a/x.jpg, train/b/00.jpg = val/b/x"
    expect(ValueError, match, PATH=tmp_path)
    kept = folder(tmp_path, DUPLICATES="drop")
    assert [len(part) for part in (kept.train_x, kept.val, kept.test)] == [6, 9, 9], "the test images stay as they are"
    assert ["train/a/00.jpg", 0, "a"] not in rows(kept, "train_x")


def test_copies_in_a_list(tmp_path: Path) -> None:
    lines = ["path,label,split"] + [f"{i}.jpg,{'ab'[i % 2]},{('train', 'test')[i % 4 // 2]}" for i in range(8)]
    path = write_list(tmp_path / "list.csv", lines)
    path.write_text("\n".join([*lines, "0.jpg,a,train", f"{tmp_path}/1.jpg,b,train"]))
    assert len(read("CSV", PATH=path).train_x) == 4
    path.write_text("\n".join([*lines, "./0.jpg,b,train"]))
    expect(ValueError, r"1 image is in several classes: 0.jpg = ./0.jpg", name="CSV", PATH=path)
    path.write_text("\n".join([*lines, "2.jpg,a,train"]))
    expect(ValueError, r"several of train, val and test: 2.jpg = 2.jpg", name="CSV", PATH=path)


def test_only_images_of_one_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of large ones only samples, until these agree."""
    path = tmp_path / "photos"
    for i in range(8):
        write(path / "ab"[i % 2] / f"{i}.png", photo(i) + bytes(100 * i))
    large = [bytes(10) + bytes([i]) + bytes(20_000) for i in range(4)]
    for i, content in enumerate(large):
        write(path / "ab"[i % 2] / f"large {i}.tif", content)
    for name in ("a/empty.jpg", "b/empty.jpg"):  # left to those who decode images
        write(path / name, b"")

    sampled, hashed = [], []
    sample, whole = duplicates.sample, duplicates.sha256_of
    monkeypatch.setattr(duplicates, "sample", lambda file: sampled.append(Path(file).name) or sample(file))
    monkeypatch.setattr(duplicates, "sha256_of", lambda file: hashed.append(Path(file).name) or whole(file))
    folder(path)
    assert sorted(sampled) == [f"large {i}.tif" for i in range(4)]
    assert not hashed
    shutil.copy(path / "a/large 0.tif", path / "b/copy.tif")
    expect(ValueError, "a/large 0.tif = b/copy.tif", PATH=path)
    assert sorted(hashed) == ["copy.tif", "large 0.tif"]


def expect(error: type[Exception], match: str, name: str = "Folder", **settings: object) -> None:
    with pytest.raises(error, match=match):
        read(name, **settings)


def test_classes_need_names_of_their_own(tmp_path: Path) -> None:
    path = photos(tmp_path / "photos", {"a": 4, "b": 4})
    (tmp_path / "names.csv").write_text("a,crane\nb,crane\n")
    expect(ValueError, "photos: the class name 'crane' is given twice", PATH=path, CLASSNAMES=tmp_path / "names.csv")
    (tmp_path / "names.csv").write_text("a,red_fox\nb,Red  fox\n")
    expect(ValueError, "'Red  fox' and 'red_fox' are the same", PATH=path, CLASSNAMES=tmp_path / "names.csv")
    expect(ValueError, "photos: the class name '_' is empty", PATH=photos(tmp_path / "other/photos", {"_": 4, "b": 4}))


def test_bad_paths(tmp_path: Path) -> None:
    expect(ValueError, "DATASET.NAME Folder needs DATASET.PATH")
    expect(FileNotFoundError, r"photos does not exist; its folder is .*, which is empty", PATH=tmp_path / "photos")
    expect(ValueError, r"no class folders in .*, which is empty; expected .*/<class>/<image>", PATH=tmp_path)
    expect(ValueError, r"is not a file; DATASET.NAME CSV needs", name="CSV", PATH=tmp_path)
    write(tmp_path / "1.jpg", picture("x"))
    expect(ValueError, r"no class folders in .*, which holds 1\.jpg", PATH=tmp_path)
    expect(ValueError, r"no class folders in .*1\.jpg, which is a file", PATH=tmp_path / "1.jpg")


def test_bad_folders(tmp_path: Path) -> None:
    expect(ValueError, r"has only one class \(a\)", PATH=photos(tmp_path / "one", {"a": 4}))
    expect(ValueError, r"no images in .*/empty/b", PATH=photos(tmp_path / "empty", {"a": 4, "b": 0}))
    expect(ValueError, "class 'b' has 3 images, too few for a split", PATH=photos(tmp_path / "few", {"a": 4, "b": 3}))
    photos(tmp_path / "differ/train", {"a": 4, "b": 4})
    photos(tmp_path / "differ/val", {"a": 4, "B": 4})
    expect(ValueError, "only in train: b; only in val: B", PATH=tmp_path / "differ")
    photos(tmp_path / "no_train/test", {"a": 4, "b": 4})
    expect(ValueError, "has test but no train folder", PATH=tmp_path / "no_train")


def test_bad_class_name_maps(tmp_path: Path) -> None:
    path, names = photos(tmp_path / "photos", {"n01": 4, "n02": 4}), tmp_path / "names.csv"
    expect(FileNotFoundError, "no class-name file", PATH=path, CLASSNAMES=names)
    for text in ("n01\n", "n01,a,b\n", "n01,\n", ""):
        names.write_text(text)
        expect(ValueError, "is no class-name map: expected", PATH=path, CLASSNAMES=names)
    names.write_text("n01,tench\nn03,shark\n")
    expect(ValueError, r"class 'n02' is not in the class-name file .*: n0", PATH=path, CLASSNAMES=names)
    (tmp_path / "names.json").write_text("[1]")
    expect(ValueError, "is no class-name map", PATH=path, CLASSNAMES=tmp_path / "names.json")


def test_bad_lists(tmp_path: Path) -> None:
    def bad(lines: list[str], match: str, **settings: object) -> None:
        expect(ValueError, match, name="CSV", PATH=write_list(tmp_path / "list.csv", lines), **settings)

    bad(["file,label", "1.jpg,a"], r"has no column path; its columns: file, label")
    bad(["path,kind", "1.jpg,a"], r"has no column label \(or classname\); its columns: path, kind")
    bad(["path,label"], "lists no images")
    bad(["path,label", "1.jpg,a", "2.jpg,"], "image 2: empty path or label")
    bad(["path,label,split", "1.jpg,a,training"], "image 1: split 'training' is none of train, val")
    bad(["path,label,split", "1.jpg,a,train", "2.jpg,b,test"], "has only one class")
    bad(["path,label,split", "1.jpg,a,test", "2.jpg,b,test"], "CSV in .*: no training images")
    named = [
        "path,label,classname,split",
        "1.jpg,0,cat,train",
        "2.jpg,0,dog,train",
        "3.jpg,1,x,train",
        "4.jpg,1,x,test",
    ]
    bad(named, "label 0 has several class names: cat, dog")
    (tmp_path / "names.csv").write_text("a,apple\n")
    bad(
        ["path,label", "1.jpg,a", "2.jpg,q"],
        "class 'q' is not in the class-name file",
        CLASSNAMES=tmp_path / "names.csv",
    )
    (tmp_path / "list.json").write_text('{"path": 1}')
    expect(ValueError, "expected a list of objects", name="CSV", PATH=tmp_path / "list.json")
    (tmp_path / "list.json").write_text("[")
    expect(ValueError, "is not valid JSON", name="CSV", PATH=tmp_path / "list.json")


def test_list_that_names_missing_images(tmp_path: Path) -> None:
    lines = ["path,label,split"] + [f"{i}.jpg,{'ab'[i % 2]},{('train', 'test')[i % 4 // 2]}" for i in range(8)]
    path = write_list(tmp_path / "list.csv", lines)
    for i in (2, 4, 5, 7):
        (tmp_path / f"{i}.jpg").unlink()
    with pytest.raises(FileNotFoundError) as error:
        read("CSV", PATH=path)
    assert "4 of 8 image files are missing" in str(error.value)
    assert f"Looked in {tmp_path}" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        *("path,label\nna\u00efve.jpg,1\n".encode("latin-1"), "path,label\na.jpg,1\n".encode("utf-16")),
        *(b"", b"\0" * 9, bytes(range(256)), b"path,label\n" + b"a" * 200_000 + b",1\n"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_damaged_lists_and_maps_are_named(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / f"list.{kind}").write_bytes(content)
    with pytest.raises(ValueError, match=rf"list\.{kind}") as caught:
        read("CSV", PATH=tmp_path / f"list.{kind}")
    assert "\n" not in str(caught.value)
    photos(tmp_path / "photos", {"a": 4, "b": 4})
    with pytest.raises(ValueError, match=rf"list\.{kind}|class 'a' is not in the class-name file"):
        folder(tmp_path / "photos", CLASSNAMES=tmp_path / f"list.{kind}")
