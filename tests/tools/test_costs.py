"""What methods cost, from the records of their runs."""

from pathlib import Path

import pytest

from tests.tools.runs_on_disk import make_run, records


def test_costs_are_means_over_trainings(tmp_path: Path, capsys: pytest.CaptureFixture):
    for seed, seconds in ((1, 10.0), (2, 20.0)):
        cost = {"trainable_parameters": 2048, "seconds": {"train": seconds, "test": 1.0}, "peak_memory_gb": 0.5}
        make_run(tmp_path / f"m/seed{seed}", 50.0, **cost)
        own = {**cost, "seconds": {"train": 0, "test": 9.0}}
        make_run(tmp_path / f"m/new/seed{seed}", 50.0, subsample_classes="new", eval_only=True, settings="m", **own)
    make_run(tmp_path / "z", 50.0, trainer="ZeroshotCLIP", eval_only=True, seconds={"test": 3.0})
    zero, maple = records(capsys, tmp_path, "--costs")
    assert (maple["method"], maple["runs"], maple["parameters"]) == ("MaPLe m", 2, 2048)
    assert (maple["training s"], maple["test s"], maple["memory GB"]) == (15.0, 1.0, 0.5)
    assert (zero["parameters"], zero["training s"], zero["test s"], zero["memory GB"]) == (0, 0.0, 3.0, None)
