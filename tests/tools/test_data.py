"""``python -m tools.data`` against a server on this machine, hostile archives and miniatures of the real data sets."""

import hashlib
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import clip
import tools.data.verify
from clip.clip import load_model
from clip.simple_tokenizer import tokenizer
from tests.datasets.layouts import MAKERS, make, make_all
from tools.data.__main__ import main
from tools.data.catalog import CATALOG, Entry, Part, Source
from tools.data.commands import state

from .archives import files_below, one_line, tar_of, zip_of
from .server import Server, serving

IMAGES = {f"2750/Forest/Forest_{i}.jpg": bytes([i]) * 5000 for i in range(3)}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def offer(monkeypatch: pytest.MonkeyPatch, *sources: Source, paths: tuple[str, ...] = ("2750",)) -> None:
    """Make EuroSAT a data set of one part that comes from ``sources``."""
    monkeypatch.setitem(CATALOG, "EuroSAT", Entry(0.1, "MIT", (Part(paths, sources),)))


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


# Downloads


def test_resumes_when_the_connection_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    archive = tar_of(IMAGES)
    server.files["a.tar"], server.cuts["a.tar"] = archive, [7000, 4000]
    offer(monkeypatch, Source(server.url("a.tar"), md5(archive)))
    assert main(["fetch", "EuroSAT", "--root", str(tmp_path)]) == 0
    assert server.requests == [("a.tar", ""), ("a.tar", "bytes=7000-"), ("a.tar", "bytes=11000-")]
    assert files_below(tmp_path / "eurosat") == IMAGES


def test_next_call_goes_on_where_the_server_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tar_of(IMAGES)
    server.files["a.tar"], server.cuts["a.tar"] = archive, [7000, 0]
    offer(monkeypatch, Source(server.url("a.tar"), md5(archive)))
    assert main(["fetch", "EuroSAT", "--root", str(tmp_path)]) == 2
    assert "could not get 2750" in one_line(capsys)
    assert list(files_below(tmp_path).values()) == [archive[:7000]]
    assert not (tmp_path / "eurosat/2750").exists()
    assert main(["fetch", "EuroSAT", "--root", str(tmp_path)]) == 0
    assert server.requests[-1] == ("a.tar", "bytes=7000-")
    assert files_below(tmp_path / "eurosat") == IMAGES


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_wrong_checksum_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    server.files["a.tar"] = tar_of(IMAGES)
    offer(monkeypatch, Source(server.url("a.tar"), f"{algorithm}:1234"))
    assert main(["fetch", "EuroSAT", "--root", str(tmp_path)]) == 2
    output = capsys.readouterr()
    assert f"has {algorithm.upper()} {hashlib.new(algorithm, server.files['a.tar']).hexdigest()}, expected 1234" in (
        output.out
    )
    assert list((tmp_path / "eurosat").iterdir()) == []


def test_web_page_in_place_of_the_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["a.json"] = b"\n<!DOCTYPE html><html>Please log in</html>"
    offer(monkeypatch, Source(server.url("a.json")), paths=("a.json",))
    assert main(["fetch", "EuroSAT", "--root", str(tmp_path)]) == 2
    assert "a web page" in capsys.readouterr().out
    assert files_below(tmp_path) == {}


def test_mirrors_are_tried_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["b.zip"], server.cuts["b.zip"] = b"half of it is lost", [9, 0]
    server.files["c.zip"] = zip_of({f"EuroSAT_RGB/{name[5:]}": content for name, content in IMAGES.items()})
    server.files["d.zip"] = b"not needed"
    a, b, c, d = (Source(server.url(f"{name}.zip")) for name in "abcd")
    offer(monkeypatch, a, b, c._replace(inner="EuroSAT_RGB"), d)
    assert main(["fetch", "EuroSAT", "--root", str(tmp_path)]) == 0
    assert [path for path, _ in server.requests] == ["a.zip", "b.zip", "b.zip", "c.zip"]
    assert "404" in capsys.readouterr().out
    assert files_below(tmp_path / "eurosat") == IMAGES


def test_second_fetch_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    server.files["a.tar"] = tar_of(IMAGES)
    offer(monkeypatch, Source(server.url("a.tar")))
    for _ in range(2):
        assert main(["fetch", "eurosat", "--root", str(tmp_path)]) == 0
    assert len(server.requests) == 1


def test_dry_run_and_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    split = Part(("split_zhou_EuroSAT.json",), (Source(server.url("split_zhou_EuroSAT.json")),))
    images = Part(("2750",), (Source(server.url("a.tar")),))
    monkeypatch.setitem(CATALOG, "EuroSAT", Entry(0.1, "MIT", (split, images)))
    server.files |= {"a.tar": tar_of(IMAGES), "split_zhou_EuroSAT.json": b"{}"}
    command = ["fetch", "EuroSAT", "--root", str(tmp_path)]
    assert main([*command, "--dry-run"]) == 0
    assert server.requests == [] and list(tmp_path.iterdir()) == []
    assert main([*command, "--only", "splits"]) == 0
    assert files_below(tmp_path) == {"eurosat/split_zhou_EuroSAT.json": b"{}"}
    assert state("EuroSAT", tmp_path) == "partial: no 2750"
    assert main([*command, "--only", "images"]) == 0
    assert len(server.requests) == 2
    assert state("EuroSAT", tmp_path) == "complete"


def test_google_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class DownloadError(Exception): ...

    def download(id: str, output: str, resume: bool) -> None:
        if id == "full":
            raise DownloadError("Too many users have\nviewed this file")
        Path(output).write_text(f"{id} {resume}")

    fake = SimpleNamespace(download=download, exceptions=SimpleNamespace(DownloadError=DownloadError))
    monkeypatch.setitem(sys.modules, "gdown", fake)
    offer(monkeypatch, Source("gdrive:full/a.json"), Source("gdrive:1hya/a.json"), paths=("a.json",))
    assert main(["fetch", "EuroSAT", "--root", str(tmp_path)]) == 0
    assert "https://drive.google.com/file/d/full/view" in capsys.readouterr().out
    assert files_below(tmp_path) == {"eurosat/a.json": b"1hya True"}


def test_one_failure_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["a.tar"] = tar_of(IMAGES)
    offer(monkeypatch, Source(server.url("a.tar")))
    monkeypatch.setitem(CATALOG, "SUN397", Entry(1, "", (Part(("SUN397",), (Source("manual:b.tar"),)),), "Ask us"))
    assert main(["fetch", "SUN397", "EuroSAT", "--root", str(tmp_path)]) == 2
    assert one_line(capsys).endswith(f"could not get SUN397 ({tmp_path / 'sun397'}). Ask us\n")
    assert state("EuroSAT", tmp_path) == "complete"


# Archives


def link_to(target: str) -> tarfile.TarInfo:
    link = tarfile.TarInfo("2750/link")
    link.type, link.linkname = tarfile.SYMTYPE, target
    return link


def device() -> tarfile.TarInfo:
    member = tarfile.TarInfo("2750/device")
    member.type = tarfile.CHRTYPE
    return member


@pytest.mark.parametrize(
    "archive",
    [
        tar_of(IMAGES | {"../evil": b"x"}),
        tar_of(IMAGES | {"2750/../../../evil": b"x"}),
        tar_of(IMAGES | {"/evil": b"x"}),
        tar_of(IMAGES, link_to("../../..")),
        tar_of(IMAGES, link_to("/etc")),
        tar_of(IMAGES, device()),
        zip_of(IMAGES | {"../evil": b"x"}),
        zip_of(IMAGES | {"..\\evil": b"x"}),
        zip_of(IMAGES | {"/evil": b"x"}),
        zip_of(IMAGES | {"C:/evil": b"x"}),
        zip_of(IMAGES | {"2750/link": b"/etc"}, link="2750/link"),
        tar_of(IMAGES)[:9000],
        b"no archive at all",
    ],
    ids=str,
)
def test_hostile_and_damaged_archives_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, archive: bytes
) -> None:
    server.files["a.tar"] = archive
    offer(monkeypatch, Source(server.url("a.tar")))
    root = tmp_path / "a/b/c"
    assert main(["fetch", "EuroSAT", "--root", str(root)]) == 2
    assert files_below(tmp_path) == {}
    assert list((root / "eurosat").iterdir()) == []


def test_links_within_the_archive_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    server.files["a.tar"] = tar_of(IMAGES, link_to("Forest/Forest_0.jpg"))
    offer(monkeypatch, Source(server.url("a.tar")))
    assert main(["fetch", "EuroSAT", "--root", str(tmp_path)]) == 0
    assert files_below(tmp_path / "eurosat") == IMAGES | {"2750/link": IMAGES["2750/Forest/Forest_0.jpg"]}


def test_archive_that_lies_in_the_folder_is_used_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = zip_of({"outer/inner.tar": tar_of(IMAGES | {"readme": b"not wanted"})})
    source = Source("manual:a.zip", md5(archive), inner="outer/inner.tar!{}")
    offer(monkeypatch, source)
    assert main(["fetch", "EuroSAT", "--root", str(tmp_path)]) == 2
    assert f"without an account, and is not in {tmp_path / 'eurosat'}" in capsys.readouterr().out
    (tmp_path / "eurosat").mkdir()
    (tmp_path / "eurosat/a.zip").write_bytes(archive)
    assert main(["fetch", "EuroSAT", "--root", str(tmp_path)]) == 0
    assert files_below(tmp_path / "eurosat") == IMAGES | {"a.zip": archive}


def test_archive_without_the_expected_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["a.tar"] = tar_of({"elsewhere/1.jpg": b"x"})
    offer(monkeypatch, Source(server.url("a.tar")))
    assert main(["fetch", "EuroSAT", "--root", str(tmp_path)]) == 2
    assert "a.tar: the archive holds no 2750" in capsys.readouterr().out
    assert files_below(tmp_path) == {}


# The catalogue and the readers


def test_catalogue_agrees_with_the_readers(tmp_path: Path) -> None:
    assert set(CATALOG) == set(MAKERS)
    assert {state(name, tmp_path) for name in CATALOG} == {"absent"}
    make_all(tmp_path)
    assert {state(name, tmp_path) for name in CATALOG} == {"complete"}


def test_catalogue_agrees_with_the_fingerprints() -> None:
    known = json.loads(tools.data.verify.FINGERPRINTS.read_text())
    for name, entry in CATALOG.items():
        digests = {source.digest for part in entry.parts if part.is_split for source in part.sources} - {""}
        assert digests == {f"sha256:{known[name]['split_sha256']}" for _ in (1,) if "split_sha256" in known[name]}


def test_torchvision_folders_are_used_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    make("OxfordPets", tmp_path)
    (tmp_path / "oxford_pets").rename(tmp_path / "oxford-iiit-pet")
    split = tmp_path / "oxford-iiit-pet/split_zhou_OxfordPets.json"
    server.files[split.name] = split.read_bytes()
    split.unlink()
    _, images = CATALOG["OxfordPets"].parts
    entry = Entry(1, "", (Part((split.name,), (Source(server.url(split.name)),)), images))
    monkeypatch.setitem(CATALOG, "OxfordPets", entry)
    assert main(["fetch", "oxford_pets", "--root", str(tmp_path)]) == 0
    assert [path for path, _ in server.requests] == [split.name]
    assert split.read_bytes() == server.files[split.name]


def test_folders_may_be_links(tmp_path: Path) -> None:
    make("DescribableTextures", tmp_path / "disk")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/dtd").symlink_to(tmp_path / "disk/dtd")
    assert state("DescribableTextures", tmp_path / "root") == "complete"


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make("DescribableTextures", tmp_path, split_file=False)
    monkeypatch.setenv("DATA", str(tmp_path))
    assert main(["list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[2:]}
    assert rows["DescribableTextures"].endswith("partial: no split_zhou_DescribableTextures.json")
    assert rows["ImageNet"].split()[1:4] == ["1000", "1,331,167", "144"]
    assert "account needed" in rows["ImageNet"] and rows["ImageNet"].endswith("absent")
    assert rows["FGVCAircraft"].split()[1:3] == ["100", "10,000"]
    assert "built in" in rows["TinyShapes"]


# verify


def test_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    layout = make("DescribableTextures", tmp_path / "data")
    names = hashlib.sha256(b"banded\npolka-dotted\nzigzagged").hexdigest()
    known = {"classes": 3, "train": 15, "val": 6, "test": 9, "classnames_sha256": names}
    fingerprints = tmp_path / "fingerprints.json"
    monkeypatch.setattr(tools.data.verify, "FINGERPRINTS", fingerprints)
    fingerprints.write_text(json.dumps({"DescribableTextures": known}))
    command = ["verify", "dtd", "--root", str(tmp_path / "data")]
    assert main(command) == 0
    assert "DIFFERS" not in capsys.readouterr().out
    fingerprints.write_text(json.dumps({"DescribableTextures": known | {"train": 16}}))
    assert main(command) == 1
    assert [line.split() for line in capsys.readouterr().out.splitlines() if "DIFFERS" in line] == [
        ["train", "DIFFERS", "15", "16"]
    ]
    for path, _, _ in layout.test[:4]:
        (tmp_path / "data/dtd/images" / path).unlink()
    assert main(command) == 1
    report = capsys.readouterr().out
    assert "4 of 30 image files are missing" in report and str(layout.test[0][0]) in report


def test_verify_counts_fewshot_picks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make("EuroSAT", tmp_path)
    assert main(["verify", "EuroSAT", "--root", str(tmp_path)]) == 1
    assert "few-shot picks as published: 0 of 15" in capsys.readouterr().out


def test_verify_of_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("EuroSAT", tmp_path, split_file=False)
    assert main(["verify", "EuroSAT", "SUN397", "TinyShapes", "--root", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("EuroSAT: no split_zhou_EuroSAT.json in ")
    assert lines[1].startswith("SUN397: no split_zhou_SUN397.json, SUN397 in ")
    assert lines[2] == "TinyShapes is rendered when it is used: nothing to verify"


# Usage


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["fetch", "Caltek101"], "did you mean Caltech101"),
        (["verify", "caltech_101"], "did you mean Caltech101"),
    ],
)
def test_unknown_names(command: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert message in one_line(capsys)


def test_words_of_the_tiny_clip(capsys: pytest.CaptureFixture[str]) -> None:
    """Every one is known, whole, and together they are all that is known."""
    assert main(["words"]) == 0
    words = capsys.readouterr().out.split()
    assert {"triangle", "triangles", "checkered", "a", "seven", "7"} <= set(words)
    assert "kered" not in words and words == sorted(set(words))
    known = load_model("tiny").known_tokens
    tokens = clip.tokenize(words).unique().tolist()
    assert known[tokens].all()
    rest = {tokenizer().decoder[i] for i in set(known.nonzero().flatten().tolist()) - set(tokens)}
    assert rest <= {*"!{}", *(f"{mark}</w>" for mark in ("!", "'", ",", "-", ".", ":", ";", "?", "{}"))}, "marks only"
    told = (Path(__file__).parents[2] / "docs/embedded.md").read_text()
    assert f"{int(known.sum())} tokens" in told and f"{len(words)} words" in told


@pytest.mark.parametrize("command", [[], ["fetch"], ["verify", "--rot", "x"], ["fetch", "DTD", "--only", "labels"]])
def test_bad_usage(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(command)
    assert exit_.value.code == 2
    assert "see --help" in one_line(capsys)
