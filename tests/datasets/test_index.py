"""The index of images: what it holds, when it is made, who may read it."""

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from datasets import index
from datasets.index import ClassFolders, Content, ImageIndex, columns_of, kept_index, write_index
from datasets.splits import class_folders
from tests.datasets.layouts import make, picture
from tests.datasets.reading import read, rows

KEPT = "imagenet21k_resized/index/imagenet21k_train.safetensors"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make("ImageNet21K", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the indices that are made."""
    names: list[str] = []
    original = index.write_index

    def write(path: Path, source: str, content: Content) -> ImageIndex:
        names.append(path.stem)
        return original(path, source, content)

    monkeypatch.setattr(index, "write_index", write)
    return names


def test_it_is_made_once_and_names_all_images(root: Path, made: list[str]) -> None:
    first = read("ImageNet21K", root)
    assert made == ["imagenet21k_val", "imagenet21k_train"] or made == ["imagenet21k_train", "imagenet21k_val"]
    again = read("ImageNet21K", root)
    assert len(made) == 2 and rows(again, "train_x") == rows(first, "train_x")
    folder = root / "imagenet21k_resized"
    expected = sorted(str(path.relative_to(folder)) for path in folder.glob("imagenet21k_train/*/*"))
    assert [path for path, _, _ in rows(first, "train_x")] == expected
    assert first.train_x[0].load().size == (12, 8)


def test_other_programs_can_read_it(root: Path) -> None:
    read("ImageNet21K", root)
    columns = load_file(root / KEPT)
    names, ends = columns["names"].tobytes(), columns["name_ends"].tolist()
    found = [names[start:end].decode() for start, end in zip([0, *ends], ends)]
    folder = root / "imagenet21k_resized/imagenet21k_train"
    assert found == [path.name for path in sorted(folder.glob("*/*"))]
    counts = np.diff(columns["class_ends"].astype(int), prepend=0)
    assert counts.tolist() == [len(os.listdir(folder / name)) for name in sorted(os.listdir(folder))]


@pytest.mark.parametrize("change", ["added", "removed", "class"])
def test_changed_folders_are_noticed(root: Path, made: list[str], change: str) -> None:
    before = [row[0] for row in rows(read("ImageNet21K", root), "train_x")]
    made.clear()
    folder = root / "imagenet21k_resized/imagenet21k_train/n00015388"
    if change == "added":
        (folder / "n00015388_7777.JPEG").write_bytes(picture("more"))
    elif change == "removed":
        (folder / "n00015388_0.JPEG").unlink()
    else:
        for part in ("train", "val"):
            shutil.rmtree(root / f"imagenet21k_resized/imagenet21k_{part}/n00015388")
    after = [row[0] for row in rows(read("ImageNet21K", root), "train_x")]
    assert "imagenet21k_train" in made
    assert after != before and len(after) == {"added": len(before) + 1, "removed": len(before) - 1}.get(
        change, len([path for path in before if "n00015388" not in path])
    )


def test_a_kept_pick_needs_no_index(root: Path, made: list[str]) -> None:
    read("ImageNet21K", root, NUM_SHOTS=1)
    (root / KEPT).unlink()
    made.clear()
    read("ImageNet21K", root, NUM_SHOTS=1)
    assert not made


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "header"])
def test_a_damaged_index_is_made_again(root: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    expected = rows(read("ImageNet21K", root), "train_x")
    path, content = root / KEPT, (root / KEPT).read_bytes()
    path.write_bytes({"cut": content[:-3], "text": b"hello, world", "empty": b"", "header": b"\xff" * 90}[damage])
    capsys.readouterr()
    assert rows(read("ImageNet21K", root), "train_x") == expected
    assert f'"{path}" is not an index of images' in capsys.readouterr().out
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_to(root: Path, made: list[str]) -> None:
    blocked = root / "imagenet21k_resized/index"
    blocked.touch()  # root may write anywhere, but not into a file
    expected = rows(read("ImageNet21K", root), "train_x")
    assert rows(read("ImageNet21K", root), "train_x") == expected
    assert len(made) == 2 and len(list((root / "cache").rglob("*.safetensors"))) == 2
    assert blocked.is_file()


def test_an_interrupted_index_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(images: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "list_images", stop)
    with pytest.raises(KeyboardInterrupt):
        read("ImageNet21K", root)
    assert not list((root / "imagenet21k_resized/index").iterdir())


def test_a_class_without_images(root: Path) -> None:
    folder = root / "imagenet21k_resized/imagenet21k_train/n00015388"
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"n00015388 holds no images \(\.jpg"):
        read("ImageNet21K", root)


def test_others_wait_for_the_one_who_makes_it(tmp_path: Path) -> None:
    """Four processes at once: one makes it, all read the same."""
    context = multiprocessing.get_context("fork")
    queue, start = context.Queue(), context.Barrier(4)
    workers = [context.Process(target=_work, args=(tmp_path, start, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    names = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert names == {"0.jpg"}
    assert len(list(tmp_path.glob("made-*"))) == 1


def _work(folder: Path, start: object, queue: object) -> None:
    def content() -> Content:
        (folder / f"made-{os.getpid()}").touch()
        return synthetic(2, 3)

    start.wait()
    queue.put(kept_index(folder, "train", "source", content).name(0))


def synthetic(classes: int, images: int) -> Content:
    """An index's content: ``images`` of each class."""
    count = classes * images
    names = "".join(f"{i}.jpg" for i in range(count)).encode()
    lengths = [len(f"{i}.jpg") for i in range(count)]
    columns = {**columns_of([images] * classes, lengths), "names": np.frombuffer(names, np.uint8)}
    return Content([f"n{label:08d}" for label in range(classes)], columns)


def test_an_image_takes_at_most_54_bytes(tmp_path: Path) -> None:
    """11 million images in 0.6 GB: 54 bytes each, names as ImageNet's (``n01440764_10026.JPEG``), in shards too."""
    classes, images, limit = 100, 1000, 0.6e9 / 11_060_223
    count, name = classes * images, b"n01440764_100026.JPEG"
    names = np.frombuffer(name * count, np.uint8)
    columns = {**columns_of([images] * classes, [len(name)] * count), "names": names}
    shard = {"shard": np.arange(count) % 2048, "offset": np.arange(count) * 6 << 20, "size": np.full(count, 1 << 20)}
    content = Content([f"n{label:08d}" for label in range(classes)], columns | shard, [f"{i}.tar" for i in range(2048)])
    opened = write_index(tmp_path / "train.safetensors", "source", content)
    assert opened.columns["offset"].dtype == np.uint64
    assert os.path.getsize(opened.path) / count < limit * 0.75
    assert opened.items("shards", [""] * classes)[count - 1].path == (
        f"shards/{(count - 1) % 2048}.tar:{(count - 1) * 6 << 20}+{1 << 20}:n01440764_100026.JPEG"
    )


def test_a_process_that_receives_an_index_maps_the_file(root: Path) -> None:
    folder = root / "imagenet21k_resized"
    source = ClassFolders(folder, folder, "imagenet21k_train", class_folders(folder / "imagenet21k_train"))
    items = source.items(["a", "b", "c"])
    sent = pickle.dumps(items)
    assert b"n00005787_0.JPEG" not in sent
    assert list(pickle.loads(sent)) == list(items)
    dataset = read("ImageNet21K", root)
    assert [item.impath for item in pickle.loads(pickle.dumps(dataset.train_x))] == [x.impath for x in dataset.train_x]
