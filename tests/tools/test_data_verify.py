"""Comparison with recorded fingerprints."""

import hashlib
import json
import random
import re
from pathlib import Path

import pytest

from tests.datasets.layouts import MAKERS, make
from tools.data import verify

KNOWN = json.loads(verify.FINGERPRINTS.read_text())


def sha256(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_all_data_sets_are_recorded() -> None:
    assert KNOWN.keys() == MAKERS.keys()
    fewshot = {name: known["fewshot"] for name, known in KNOWN.items() if "fewshot" in known}
    assert len(fewshot) == 10
    digests = [digest for shots in fewshot.values() for seeds in shots.values() for pair in seeds for digest in pair]
    assert len(set(digests)) == len(digests) == 10 * 5 * 3 * 2
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in digests)


def test_verify_compares_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = make("EuroSAT", tmp_path)
    random.seed(1)
    picks = []
    for part in (layout.train, layout.val):
        labels = range(len(layout.classnames))
        picked = [path for label in labels for path in random.sample([row[0] for row in part if row[1] == label], 2)]
        picks.append(sha256(picked)[:12])
    split_file = (tmp_path / "eurosat/split_zhou_EuroSAT.json").read_bytes()
    known = {
        "classes": 4,
        "train": 20,
        "val": 8,
        "test": 13,  # wrong
        "split_sha256": hashlib.sha256(split_file).hexdigest(),
        "classnames_sha256": sha256(layout.classnames),
        "fewshot": {"2": [picks, ["0" * 12, "1" * 12]]},
    }
    (tmp_path / "known.json").write_text(json.dumps({"EuroSAT": known}))
    monkeypatch.setattr(verify, "FINGERPRINTS", tmp_path / "known.json")
    checks = {check.what: check for check in verify.verify("EuroSAT", str(tmp_path))}
    failed = [what for what, check in checks.items() if not check.passed]
    assert failed == ["test", "2 shots, seed 2"]
    assert checks["test"] == ("test", "12", "13")
    assert len(checks) == 8
    assert not (tmp_path / "eurosat/split_fewshot").exists()


def test_verify_of_a_data_set_without_split_file(tmp_path: Path) -> None:
    make("EuroSAT", tmp_path, split_file=False)
    checks = {check.what: check for check in verify.verify("EuroSAT", str(tmp_path))}
    assert checks["split_sha256"].found == "no split file"


@pytest.mark.parametrize("name", MAKERS)
def test_every_data_set_can_be_verified(name: str, tmp_path: Path) -> None:
    layout = make(name, tmp_path)
    checks = {check.what: check.found for check in verify.verify(name, str(tmp_path))}
    assert checks["classes"] == str(len(layout.classnames))
    assert checks["val"] == str(len(layout.val))
