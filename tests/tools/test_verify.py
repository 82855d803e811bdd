"""``tools.verify``: the embedded world is as it should be, what was verified stays so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from clip.clip import TINY
from dassl.utils import read_json, sha256_of
from datasets.embedded import EMBEDDED
from tools import cost
from tools.verify import accuracy, expected, speed, tasks, verdicts, weights
from tools.verify.__main__ import PARTS, main, parse_args
from tools.verify.verdicts import ABSENT, OK, WRONG, Task, Verdict

ROOT = Path(__file__).parents[2]
RESULTS = ("weights", "data", "zeroshot")


def lines_of(out: str) -> list[tuple[str, str, str]]:
    """State, part and the rest of each verdict."""
    return re.findall(rf"^({OK}|{WRONG}|{ABSENT}) +(\w+) +(.*)$", out, flags=re.MULTILINE)


def verify(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, list[tuple[str, str, str]]]:
    """Exit status and verdicts."""
    status = main([str(word) for word in argv])
    return status, lines_of(capsys.readouterr().out)


def test_the_embedded_world_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And stays so: nothing is done twice."""
    words = ("TinyPrint", "tiny_digits", "--out", tmp_path, "--only", *RESULTS)
    status, lines = verify(capsys, *words)
    assert status == 0 and {state for state, *_ in lines} == {OK}
    text = "\n".join(line for *_, line in lines)
    assert "TinyPrint: 10 classes; 160 train, 40 val, 200 test; class names, template" in text
    assert "TinyPrint: 71.50 % of 200 images" in text and "TinyDigits: 39.70 % of 534 images" in text
    assert "tensors: all 87 as expected" in text and "normalisation: mean 0.481 0.458 0.408" in text
    tested = [path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/metrics.json")]
    assert len(tested) == 2
    status, again = verify(capsys, *words)
    assert status == 0 and again == [(state, part, f"{line} (verified before)") for state, part, line in lines]
    assert tested == [path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/metrics.json")]


def test_what_is_expected_of_the_embedded_world_is_in_its_document() -> None:
    """The table of docs/embedded.md, of all data sets; the weights are those that are shipped."""
    wanted = expected.read(expected.EMBEDDED)
    table = re.findall(r"^\| `(Tiny\w+)` \| (\d+) \| \S+ \| (\S+) \|", (ROOT / "docs/embedded.md").read_text(), re.M)
    numbers = wanted.accuracies["ZeroshotCLIP"]
    assert len(table) == len(numbers) == len(wanted.datasets) == len(EMBEDDED)
    for name, classes, own in table:
        assert wanted.datasets[name]["classes"] == int(classes)
        assert numbers[expected.stems()[name]].value == pytest.approx(float(own), abs=0.05001)
    assert wanted.sha256 == sha256_of(str(TINY))


def test_what_is_expected_of_published_weights() -> None:
    """Numbers of the papers' tables; the prompts' are those of the data set that they were trained on."""
    wanted = expected.of_published("ViT-B/16")
    zero_shot = {stem: one.value for stem, one in wanted.accuracies["ZeroshotCLIP"].items()}
    assert len(zero_shot) == 16 and zero_shot.keys() <= {*expected.stems().values()}
    assert (zero_shot["dtd"], zero_shot["imagenet"], zero_shot["imagenet_a"]) == (44.56, 66.72, 47.77)
    prompts = {name: {stem: one.value for stem, one in of.items()} for name, of in wanted.accuracies.items()}
    assert prompts["CoOp"] == {"imagenet": 71.51} and prompts["CoCoOp"] == {"imagenet": 71.02}
    assert "PromptSRC" in prompts and "VPT" not in prompts  # printed, but of settings that there are none of
    assert prompts["MaPLe"] == {"imagenet": 70.72} and prompts["POMP"] == {"imagenet_21k": 25.3}
    assert wanted.sha256 == "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
    assert len(wanted.datasets) == 16 and wanted.datasets["EuroSAT"]["classes"] == 10
    assert expected.of_published("RN50").accuracies["ZeroshotCLIP"]["imagenet_21k"].value == 17.5
    assert expected.of_published("ViT-B-16:laion2b_s34b_b88k").sha256 == ""


def test_a_step_and_times(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "MEASURED_SECONDS", 0.01)
    monkeypatch.setattr(cost, "STEPS", 1)
    monkeypatch.setattr(speed, "learners", lambda: ["CoOp"])
    words = ("TinyPrint", "--out", tmp_path, "--only", "step", "times")
    status, lines = verify(capsys, *words)
    assert status == 0
    assert [line[:2] for line in lines] == [(OK, "step"), (ABSENT, "step"), (OK, "times")]
    off = float(re.search(r"CPU: (\S+) off the naive step; \S+ s naive, \S+ s ours", lines[0][2])[1])
    assert 0 < off < 1e-5
    assert re.match(r"CoOp on tiny_print, 16 shots, base classes: .* ms a step", lines[2][2])
    naive = __import__("benchmarks.naive", fromlist=["naive"])
    monkeypatch.setattr(naive, "padded_ids", lambda texts, pad=naive.padded_ids: pad(texts).roll(1, dims=0))
    (tmp_path / "state.json").unlink()
    status, lines = verify(capsys, *words[:-1])
    assert status == 1 and lines[0][0] == WRONG and "expected at most 0.0001 off" in lines[0][2]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "amp"])
def test_every_precision_agrees_within_its_rounding(precision: str) -> None:
    """As on a GPU, but for its kernels."""
    (found,) = speed.verify_step(expected.read(expected.EMBEDDED), TINY, precision)
    off = float(re.match(r"(\S+) off", found.found)[1])
    assert found.state == OK and 1e-6 < off < speed.TOLERANCES[precision] / 3


def test_learners_are_those_of_the_table() -> None:
    assert {"RPP", "MaPLe", "CoOp", "CoCoOp"} <= {*speed.learners()} and "ZeroshotCLIP" not in speed.learners()


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of seconds."""
    folder = tmp_path_factory.mktemp("prompts") / "run"
    words = ["--dataset-config-file", "configs/datasets/tiny_print.yaml", "--output-dir", str(folder), "--seed", "1"]
    assert train.main(["--trainer", "CoOp", *words, "DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "1"]) == 0
    return folder


def expect(path: Path, **accuracies: dict[str, float]) -> Path:
    content = read_json(str(expected.EMBEDDED)) | {"accuracies": accuracies}
    path.write_text(json.dumps(content))
    return path


def test_checkpoints(prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Right, by METHOD=PATH and in a folder; changed prompts, another method's and a truncated file are wrong."""
    number = read_json(str(prompts / "metrics.json"))["results"]["test"]["accuracy"]
    file = expect(tmp_path / "expect.json", CoOp={"tiny_print": number}, MaPLe={"tiny_print": number})
    (kept,) = prompts.glob("prompt_learner/model.pth.tar-*")
    words = ("TinyPrint", "--expect", file, "--out", tmp_path / "out", "--only", "checkpoints", "--checkpoints")
    status, lines = verify(capsys, *words, f"CoOp={kept}")
    assert status == 0 and lines[0][0] == OK and lines[0][2].startswith(f"CoOp on tiny_print: {number:.2f} % of 200")
    given = tmp_path / "given"
    given.mkdir()
    content = torch.load(kept, weights_only=True)
    content["state_dict"]["ctx"] = -3 * content["state_dict"]["ctx"].flip(0)
    torch.save(content, given / "coop_seed1.pth.tar")
    torch.save(content, given / "maple.pth.tar")
    status, lines = verify(capsys, *words, given)
    assert status == 1 and [state for state, *_ in lines] == [WRONG, WRONG]
    assert re.match(rf"CoOp on tiny_print: \d+.* expected {number:.2f} ± 0.3 % \(expect.json\)", lines[0][2])
    assert "MaPLe" in lines[1][2] and "missing" in lines[1][2]
    (given / "maple.pth.tar").write_bytes(kept.read_bytes()[:100])
    assert verify(capsys, *words, given)[1][1][0] == WRONG


def test_checkpoints_are_found_by_name(tmp_path: Path) -> None:
    for name in ("CoOp", "cocoop_c4_ep10", "promptsrc", "readme.md"):
        (tmp_path / name).mkdir()
    found = accuracy.find_checkpoints([str(tmp_path)])
    assert {method: path.name for method, path in found.items()} == {
        "CoOp": "CoOp", "CoCoOp": "cocoop_c4_ep10", "PromptSRC": "promptsrc"
    }  # fmt: skip
    assert accuracy.find_checkpoints([f"RPP={tmp_path}"]) == {"RPP": tmp_path}


def test_prompts_of_which_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("TinyPrint", "--out", tmp_path, "--only", "checkpoints", "--checkpoints", f"RPP={tmp_path}")
    status, lines = verify(capsys, *words)
    assert status == 0 and lines[0][0] == ABSENT and "no printed number" in lines[0][2]


def test_weights_that_cannot_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise ConnectionError("Could not download")

    monkeypatch.setattr(weights, "download", fail)
    content = read_json(str(expected.EMBEDDED)) | {"backbone": "ViT-B/16"}
    (tmp_path / "expect.json").write_text(json.dumps(content))
    words = ("TinyPrint", "--expect", tmp_path / "expect.json", "--out", tmp_path, "--only", *PARTS)
    status, lines = verify(capsys, *words)
    assert status == 0
    assert main([*map(str, words), "--record", str(tmp_path / "new.json")]) == 2
    assert not (tmp_path / "new.json").exists()
    assert {(state, part) for state, part, _ in lines} == {(ABSENT, part) for part in PARTS if part != "data"} | {
        (OK, "data")
    }


# What is kept ---------------------------------------------------------------------------------------------------------


def made(part: str, state: str, counter: list[str], inputs: object = 1) -> Task:
    def work() -> list[Verdict]:
        counter.append(part)
        return [Verdict(state, part)]

    return Task(part, part, lambda: inputs, work)


def test_only_what_was_right_and_is_the_same_stays_verified(tmp_path: Path) -> None:
    path, done = tmp_path / "state.json", []
    for inputs in (1, 1, 2):
        todo = [made("a", OK, done, inputs), made("b", WRONG, done), made("c", ABSENT, done)]
        counts = verdicts.carry_out(todo, verdicts.Memory(path))
        assert counts == {OK: 1, WRONG: 1, ABSENT: 1}
    assert "".join(done) == "abc" + "bc" + "abc"
    verdicts.carry_out([made("a", WRONG, done, 3)], verdicts.Memory(path))
    verdicts.carry_out([made("a", OK, done, 2)], verdicts.Memory(path))
    assert "".join(done).endswith("aa")  # a wrong result forgets the right one before it


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def interrupt() -> list[Verdict]:
        raise KeyboardInterrupt

    for stops in (True, False):
        second = Task("b", "b", list, interrupt) if stops else made("b", OK, done, [])
        todo = [made("a", OK, done), second]
        monkeypatch.setattr(tasks.Plan, "tasks", lambda self, parts, todo=todo: todo)
        assert main(["--out", str(tmp_path)]) == (130 if stops else 0)
    assert done == ["a", "b"]


def test_a_file_that_changes_is_another_input(tmp_path: Path) -> None:
    (tmp_path / "in/split_fewshot").mkdir(parents=True)
    for name in ("in/x.jpg", "y.json"):
        (tmp_path / name).write_text("1")
    stamps = [verdicts.stamp_of_folder(tmp_path, ["split_fewshot"])]
    (tmp_path / "split_fewshot").mkdir()
    (tmp_path / "split_fewshot/kept.json").write_text("1")  # what reading leaves
    assert verdicts.stamp_of_folder(tmp_path, ["split_fewshot"]) == stamps[0]
    (tmp_path / "in/x.jpg").write_text("12")
    stamps.append(verdicts.stamp_of_folder(tmp_path, ["split_fewshot"]))
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "y.json").rename(tmp_path / "z.json")
    stamps.append(verdicts.stamp_of_folder(tmp_path, ["split_fewshot"]))
    assert len({*stamps}) == 3


def test_a_damaged_state_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state.json").write_text('{"weights: tiny": 1}')
    assert main(["TinyPrint", "--out", str(tmp_path)]) == 2
    assert "delete it" in capsys.readouterr().err


# Mistakes in the command ----------------------------------------------------------------------------------------------


def test_a_usage_needs_no_torch() -> None:
    code = "import sys, tools.verify.__main__ as verify; verify.parse_args(['dtd']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["TinyPrnt"], "did you mean TinyPrint"),
        (["--root", "nowhere"], "No folder nowhere"),
        (["--root", "configs"], "None of Caltech101"),
        (["EuroSAT"], "None of EuroSAT"),
        (["--weights", "nowhere.pt"], "No weights file at nowhere.pt"),
        (["--checkpoints", "nowhere"], "METHOD=PATH"),
        (["--checkpoints", "tests"], "begins with a method's name"),
        (["--checkpoints", "CoOp=nowhere"], "No checkpoint at nowhere"),
        (["--expect", "configs/methods.yaml"], "is not valid JSON"),
        (["--backbone", "ViT-B/17", "TinyPrint"], "Unknown backbone"),
    ],
)
def test_mistakes(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main([*argv, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_an_expectation_file_with_a_strange_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "expect.json"
    for content in ('{"backbone": "tiny", "colour": 1}', '{"backbone": "tiny", "accuracies": {"CoOop": {}}}', "[]"):
        file.write_text(content)
        assert main(["--expect", str(file), "--out", str(tmp_path)]) == 2
        assert "expect.json" in capsys.readouterr().err


def test_parts_are_those_of_the_usage() -> None:
    assert (*tasks.PARTS,) == PARTS and parse_args(["--only", *PARTS]).only == [*PARTS]
