"""``python -m tools.data shard`` and ``fetch --shards``: what they leave behind, and how they go on."""

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.datasets.layouts import make, picture
from tests.datasets.reading import read, rows
from tests.datasets.shard_files import sample, write_shard
from tools.data import shard_writer
from tools.data.__main__ import main

from .archives import files_below, one_line
from .server import Server, serving

TRAIN = "imagenet21k_resized/imagenet21k_train"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make("ImageNet21K", tmp_path)
    return tmp_path


def command(root: Path, *words: object, per_shard: int = 7) -> list[str]:
    into = root / "imagenet_21k/shards"
    return ["shard", str(root / TRAIN), "--into", str(into), "--per-shard", str(per_shard), *map(str, words)]


def shards(root: Path) -> dict[str, bytes]:
    return files_below(root / "imagenet_21k/shards")


def contents(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


# Writing


def test_what_a_shard_holds(root: Path) -> None:
    (root / TRAIN / "n00015388/n00015388_0.JPEG").write_bytes(b"no image")
    assert main(command(root)) == 0
    folder, total = root / "imagenet_21k/shards", len(list((root / TRAIN).rglob("*.JPEG")))
    paths = sorted(folder.glob("*.tar"))
    assert [path.name for path in paths] == [f"imagenet21k_train-{i:04d}.tar" for i in range(-(-total // 7))]
    files = [item for path in paths for item in contents(path)]
    assert len(files) == 3 * total
    images = {}
    for (image, content), (text, about), (cls, label) in zip(files[::3], files[1::3], files[2::3]):
        stem, _, suffix = image.partition(".")
        assert suffix == "jpg" and (text, cls) == (f"{stem}.json", f"{stem}.cls")
        wnid, found = stem.partition("_")[0], json.loads(about)
        position = ["n00005787", "n00015388", "n00021265"].index(wnid)
        size = {} if content == b"no image" else {"width": 12, "height": 8}
        assert found == {"label": position, "class_name": wnid, **size} and label == str(position).encode()
        images[f"{wnid}/{stem}.JPEG"] = content
    assert images == files_below(root / TRAIN)
    assert [image.partition("_")[0] for image, _ in files[: 3 * 7 : 3]] != ["n00005787"] * 7, "shards are mixed"
    split = json.loads((folder / "info.json").read_text())["splits"]["train"]
    assert split["num_samples"] == total and sum(split["shard_lengths"]) == total
    assert split["filenames"] == [path.name for path in paths]


def test_the_reader_finds_the_same_images(root: Path) -> None:
    expected = read("ImageNet21K", root)
    assert main(command(root)) == 0
    val = [
        str(root / "imagenet21k_resized/imagenet21k_val") if word.endswith("_train") else word for word in command(root)
    ]
    assert main(val) == 0
    (root / "imagenet21k_resized/imagenet21k_miil_tree.pth").rename(root / "imagenet_21k/imagenet21k_miil_tree.pth")
    (root / "imagenet21k_resized").rename(root / "away")
    found = read("ImageNet21K", root)
    for part in ("train_x", "test"):
        name = [(Path(path).stem, label) for path, label, _ in rows(expected, part)]
        assert [(path.split(":")[-1].partition(".")[0], label) for path, label, _ in rows(found, part)] == name


def test_it_goes_on_after_an_interruption(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(command(root)) == 0
    expected = shards(root)
    for path in (root / "imagenet_21k/shards").iterdir():
        path.unlink()
    original, written = shard_writer.size_of, []

    def interrupted(content: bytes) -> dict[str, int]:
        written.append(content)
        if len(written) == 10:
            raise KeyboardInterrupt
        return original(content)

    monkeypatch.setattr(shard_writer, "size_of", interrupted)
    assert main(command(root)) == 130
    assert [*shards(root)] == ["info.json", "imagenet21k_train-0000.tar"] or len(shards(root)) == 2
    (root / "imagenet_21k/shards/.imagenet21k_train-0001.tar.abc.tmp").write_bytes(b"of a killed run")
    assert main(command(root)) == 0
    assert shards(root) == expected
    assert len(written) == 10 + sum(json.loads(expected["info.json"])["splits"]["train"]["shard_lengths"]) - 7


def test_shards_of_other_images_are_not_mixed_in(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(root)) == 0
    before = shards(root)
    capsys.readouterr()
    for words in (command(root, per_shard=5), command(root, "--name", "other")):
        assert main(words) == 2
        assert "lists train shards of other images, or with another name" in one_line(capsys)
    (root / TRAIN / "n00015388/n00015388_999.JPEG").write_bytes(picture("more"))
    assert main(command(root)) == 2
    assert shards(root) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda train: (train / "cats").mkdir(), "must be named by WordNet ids; these are not: cats"),
        (lambda train: (train / "n00015388/n00015388_0.png").touch(), "differ in their suffixes alone: n00015388_0"),
        (lambda train: (train / "n09999999").mkdir(), "holds no images"),
    ],
)
def test_bad_folders(root: Path, capsys: pytest.CaptureFixture[str], change, message: str) -> None:
    change(root / TRAIN)
    assert main(command(root)) == 2
    assert message in one_line(capsys)
    assert not shards(root)


def test_bad_sources(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, message in (("nowhere", "no file or folder"), (".", "must be named by"), ("a.txt", "give one folder")):
        (root / "a.txt").touch()
        assert main(["shard", str(root / source), "--into", str(root / "into")]) == 2
        assert message in one_line(capsys)
    assert main(command(root, per_shard=0)) == 2
    assert "--per-shard must be 1 or more" in one_line(capsys)


# Parquet


def parquet(path: Path, images: list[tuple[bytes, str | None, int]], names: list[str] | None) -> None:
    """A file as the Hugging Face ``datasets`` write it, of small row groups."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    table = pyarrow.table(
        {
            "image": [{"bytes": content, "path": name} for content, name, _ in images],
            "label": [label for _, _, label in images],
        }
    )
    if names:
        about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    write_table(table, path, row_group_size=3)


def webp(kind: str) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(kind))).save(file, "WEBP")
    return file.getvalue()


@pytest.mark.parametrize("where", ["description", "file"])
def test_parquet(tmp_path: Path, where: str) -> None:
    names, wnids = [f"n0000000{i}" for i in range(3)], tmp_path / "synsets.txt"
    wnids.write_text("\n".join(names))
    images = [(webp(str(i)), None if i % 2 else f"n0000000{i % 3}_{i}.webp", i % 3) for i in range(11)]
    paths = [tmp_path / f"train-0000{i}-of-00002.parquet" for i in range(2)]
    for path, part in zip(paths, (images[:7], images[7:])):
        parquet(path, part, names if where == "description" else None)
    words = ["shard", *map(str, paths), "--into", str(tmp_path / "shards"), "--per-shard", "4"]
    words += ["--synsets", str(wnids)] if where == "file" else []
    assert main(words) == 0
    found = sorted((tmp_path / "shards").glob("*.tar"))
    assert [path.name for path in found] == [f"train-000{i}.tar" for i in range(3)]
    files = [item for path in found for item in contents(path)]
    assert [content for _, content in files[::3]] == [content for content, _, _ in images]
    stems = [f"n0000000{i % 3}_{i:08d}" if i % 2 else f"n0000000{i % 3}_{i}" for i in range(11)]
    assert [name for name, _ in files[::3]] == [f"{stem}.webp" for stem in stems]
    found[1].unlink()
    assert main(words) == 0
    assert [item for path in found for item in contents(path)] == files


def test_bad_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    for content, message in (
        (None, "is not a parquet file"),
        ([(b"", None, 0)], "row 0: no bytes of an image"),
        ([(picture("a"), None, 9)], "row 0: label 9 is not one of 1 classes"),
    ):
        path.write_bytes(b"hello") if content is None else parquet(path, content, ["n00000000"])
        assert main(["shard", str(path), "--into", str(tmp_path / f"shards{len(message)}")]) == 2
        assert message in one_line(capsys)


def test_parquet_needs_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    assert main(["shard", str(tmp_path / "a.parquet"), "--into", str(tmp_path)]) == 2
    assert "need pyarrow: pip install 'pyarrow>=15'" in one_line(capsys)


# Downloading


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Two shards; the first answers for the second end early, and go on."""
    with serving() as running:
        for i in range(2):
            path = tmp_path / "made" / f"train-{i:04d}.tar"
            write_shard(path, [(f"n00015388_{i}{j}", sample("n00015388", picture(f"{i}{j}"))) for j in range(4)])
            running.files[path.name] = path.read_bytes()
        running.cuts["train-0001.tar"] = [3000, 5000]
        yield running


def fetch(root: Path, *urls: str, words: tuple[str, ...] = ()) -> int:
    return main(["fetch", "imagenet_21k", "--only", "splits", "--root", str(root), *words, "--shards", *urls])


def test_shards_arrive_whole_though_connections_break(tmp_path: Path, server: Server) -> None:
    assert fetch(tmp_path, server.url("train-{0000..0001}.tar")) == 0
    into = tmp_path / "imagenet21k_resized/shards"
    assert files_below(into) == server.files
    assert [span for path, span in server.requests if path == "train-0001.tar"] == ["", "bytes=3000-", "bytes=8000-"]
    count = len(server.requests)
    assert fetch(tmp_path, server.url("train-{0000..0001}.tar")) == 0
    assert len(server.requests) == count, "what is there is not asked for"


def test_the_next_call_goes_on_where_the_server_stopped(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cuts["train-0001.tar"] = [3000, 0]
    assert fetch(tmp_path, server.url("train-{0000..0001}.tar")) == 2
    text = one_line(capsys)
    assert "train-0001.tar: the connection ended after 3000 of" in text and "call again to go on" in text
    into = tmp_path / "imagenet21k_resized/shards"
    assert [path.name for path in into.glob("*.tar")] == ["train-0000.tar"]
    assert fetch(tmp_path, server.url("train-{0000..0001}.tar")) == 0
    assert server.requests[-1] == ("train-0001.tar", "bytes=3000-") and files_below(into) == server.files


def test_a_shard_that_is_none_does_not_appear(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, message in (
        (b"<html>please log in" * 90, "is no tar file"),
        (server.files["train-0000.tar"][:-9000], "cut"),
    ):
        server.files["train-0002.tar"] = content
        assert fetch(tmp_path, server.url("train-0002.tar")) == 2
        text = one_line(capsys)
        assert message in text and "train-0002.tar is not what it should be" in text
        assert not files_below(tmp_path / "imagenet21k_resized/shards")


def test_the_token_goes_to_the_named_server_alone(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "of hugging face")
    server.token = "secret"
    assert fetch(tmp_path, server.url("train-0000.tar")) == 2
    assert server.authorizations == [""], "HF_TOKEN is for huggingface.co"
    text = one_line(capsys)
    assert "401" in text and "set HF_TOKEN (or see --token-env)" in text
    monkeypatch.setenv("MINE", "secret")
    with serving() as storage:
        storage.files["x/train-0000.tar"] = server.files["train-0000.tar"]
        storage.cuts["x/train-0000.tar"] = [2000]
        server.moved["train-0000.tar"] = storage.url("x/train-0000.tar")
        assert fetch(tmp_path, server.url("train-0000.tar"), words=("--token-env", "MINE")) == 0
        assert server.authorizations[1:] == ["Bearer secret"] * 2 and storage.authorizations == ["", ""]
        assert [span for _, span in storage.requests] == ["", "bytes=2000-"]
    assert "secret" not in capsys.readouterr().out


def test_bad_addresses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for url, message in (
        ("pipe:curl -L x.tar", "is no https://... address"),
        ("file:///etc/passwd", "is no https://... address"),
        ("https://host/a-{3..1}.tar", "the range {3..1} is empty"),
    ):
        assert fetch(tmp_path, url) == 2
        assert message in one_line(capsys)
    assert main(["fetch", "dtd", "--root", str(tmp_path), "--shards", "https://host/a.tar"]) == 2
    assert "--shards goes with ImageNet21K alone" in one_line(capsys)
    assert fetch(tmp_path, "https://host/a.tar", words=("--token-env", "NO_SUCH_VARIABLE")) == 2
    assert "there is no environment variable NO_SUCH_VARIABLE" in one_line(capsys)
    assert not any(tmp_path.iterdir())
