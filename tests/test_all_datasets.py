"""Zero-shot CLIP over miniatures of all sixteen benchmark data sets, by one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.clip.small import SIZE, small_clip
from tests.datasets import layouts
from tools import sweep

FILE = Path(__file__).parent.parent / "configs" / "benchmarks" / "zeroshot.yaml"


def test_one_command_goes_over_all_sixteen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root, weights = tmp_path / "data", tmp_path / "clip.safetensors"
    layouts.make_all(root)
    save_file(small_clip(context_length=77).state_dict(), weights)
    words = ["MODEL.BACKBONE.PATH", str(weights), "INPUT.SIZE", f"({SIZE}, {SIZE})", "DATALOADER.NUM_WORKERS", "0"]
    assert sweep.main([str(FILE), "--root", str(root), "--out", str(tmp_path / "out"), *words]) == 0
    found = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("metrics.json")]
    assert len({metrics["dataset"] for metrics in found}) == 16
    assert all(metrics["results"]["test"]["total"] == metrics["num_test"] > 0 for metrics in found)
    assert "16 jobs" in capfd.readouterr().out
