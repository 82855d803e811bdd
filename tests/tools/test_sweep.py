"""Whole tables: resumed after a kill, idempotent, robust against a failing job, on several kinds of workers."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from configs import methods
from configs.runs import RunSpec
from dassl.utils import lock, read_json, sole_user_of
from tools import jobs, sweep, workers
from tools.sweep import Benchmark, Method

from .small_world import TINY, accuracies, epochs_in, small_world, start_sweep  # noqa: F401 - a fixture

RUN = RunSpec("RPP", "tiny_shapes")
BENCHMARKS = sorted(Path("configs/benchmarks").glob("*.yaml"))
EPOCHS = 12  # each takes a twentieth of a second
LONGER = (*TINY, "OPTIM.MAX_EPOCH", str(EPOCHS))


def write(path: Path, **content: object) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def small_table(folder: Path) -> str:
    """Three methods, two data sets, two seeds."""
    return write(
        folder / "small.yaml",
        title="A small table",
        protocol="base2new",
        datasets=["tiny_digits", "tiny_shapes"],
        seeds=[1, 2],
        methods=[{"trainer": "ZeroshotCLIP"}, {"trainer": "CoOp"}, {"trainer": "RPP"}],
    )


# A whole table --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_world")
def test_a_killed_sweep_goes_on_to_the_same_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, whole, cut = small_table(tmp_path), tmp_path / "whole", tmp_path / "cut"
    assert sweep.main([file, *LONGER, "--out", str(whole)]) == 0
    table = capfd.readouterr().out
    assert len(accuracies(whole)) == 20  # zero-shot runs do not depend on the seed
    assert all(name in table for name in ("CLIP", "CoOp", "RPP", "tiny_digits", "tiny_shapes", "average"))

    kill_in_the_middle(start_sweep([file, *LONGER, "--out", str(cut)]), cut)
    before, logs = accuracies(cut), {*cut.rglob("log.txt*")}
    assert 0 < len(before) < 20
    assert sweep.main([file, *LONGER, "--out", str(cut)]) == 0
    assert accuracies(cut) == accuracies(whole)
    check_resumed(sorted({*cut.rglob("log.txt*")} - logs), whole)
    assert histories(cut) == histories(whole)

    begun, after = time.monotonic(), sorted(cut.rglob("log.txt*"))
    assert sweep.main([file, *LONGER, "--out", str(cut)]) == 0
    assert time.monotonic() - begun < 20 and sorted(cut.rglob("log.txt*")) == after
    assert "20 jobs, 20 done already" in capfd.readouterr().out


def kill_in_the_middle(process: object, out: Path) -> None:
    """Kill the whole process group while the second data set's training is between two epochs."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if [*out.glob("base2new/train_base/tiny_shapes/**/model-last.pth.tar")]:
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [*out.rglob("model-last.pth.tar")], "it was too fast: nothing is unfinished"


def check_resumed(new_logs: list[Path], whole: Path) -> None:
    second, all_epochs = epochs_in(new_logs), epochs_in([*whole.rglob("log.txt*")])
    assert 0 < len(second) < len(all_epochs) == 8 * EPOCHS
    (resumed,) = [log for log in new_logs if "will resume training" in log.read_text()]
    own = [epoch for log, epoch in second if log == resumed]
    assert own and own[0] > 1 and own[-1] == EPOCHS, "the interrupted run must go on, not start again"


def histories(out: Path) -> dict[str, list[tuple[int, float]]]:
    """Epochs and losses of every trained run."""
    found = {str(path.relative_to(out)): read_json(str(path))["history"] for path in sorted(out.rglob("metrics.json"))}
    return {name: [(epoch["epoch"], epoch["loss"]) for epoch in history] for name, history in found.items() if history}


@pytest.mark.usefixtures("small_world")
def test_sigterm_stops_the_job_as_well(tmp_path: Path) -> None:
    argv = [small_table(tmp_path), "--out", str(tmp_path), "--only", "CoOp,tiny_digits", "OPTIM.MAX_EPOCH", "1000"]
    process = start_sweep(argv)
    last = "**/model-last.pth.tar"
    while not [*tmp_path.glob(last)]:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)  # not the group: the sweep itself ends its job
    process.join(30)
    assert process.exitcode == 130
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob(last)}
    time.sleep(0.5)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob(last)} == stamps


@pytest.mark.usefixtures("small_world")
def test_a_failing_job_stops_only_what_needs_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write(
        tmp_path / "table.yaml",
        title="One of two fails",
        protocol="base2new",
        datasets=["tiny_digits"],
        seeds=[1],
        methods=[{"trainer": "CoOp", "opts": {"INPUT.SIZE": "(64, 64)"}}, {"trainer": "CoOp"}],
    )
    argv = [file, "--out", str(tmp_path), *TINY]
    assert sweep.main(argv) == 1
    shown = capfd.readouterr()
    assert "FAILED" in shown.out and "skipped, as what it needs failed" in shown.out
    assert "[4/4]" in shown.out and len(accuracies(tmp_path)) == 2
    (error,) = tmp_path.rglob("error.txt")
    assert "size_64_64" in str(error) and "INPUT.SIZE is (64, 64)" in error.read_text()
    assert sweep.main([*argv, "--dry-run"]) == 0
    states = [line.split()[0] for line in capfd.readouterr().out.splitlines()[1:]]
    assert states == ["failed", "missing", "done", "done"]


@pytest.mark.usefixtures("small_world")
@pytest.mark.parametrize("where", [("--slurm", "cluster=local,timeout_min=5"), ("--gpus", "0")])
def test_other_workers(where: tuple[str, str], tmp_path: Path) -> None:
    """The queue's and the GPUs' way of running a job: in a new interpreter, on the real data."""
    methods = [{"trainer": "ZeroshotCLIP"}]
    file = write(tmp_path / "table.yaml", title="One", protocol="zeroshot", datasets=["tiny_digits"], methods=methods)
    assert sweep.main([file, "--out", str(tmp_path), *where]) == 0
    assert len(accuracies(tmp_path)) == 1


@pytest.mark.usefixtures("small_world")
def test_jobs_side_by_side_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same results as one after another, here on the validation images, which the table then says."""
    methods = [{"trainer": "CoOp", "opts": {"TEST.SPLIT": "val"}}]
    words = {"title": "Two", "protocol": "fewshot", "datasets": ["tiny_digits", "tiny_shapes"], "seeds": [1]}
    file, found = write(tmp_path / "table.yaml", methods=methods, **words), []
    for count in ("1", "2"):
        assert sweep.main([file, "--out", str(tmp_path / count), "--workers", count]) == 0
        assert "Accuracy on the val split" in capsys.readouterr().out
        records = [read_json(str(path)) for path in sorted((tmp_path / count).rglob("metrics.json"))]
        found.append([record["results"]["val"]["accuracy"] for record in records])
    assert found[0] == found[1] and len(found[0]) == 2
    assert sweep.main([file, "--workers", "0"]) == 2


@pytest.mark.usefixtures("small_world")
def test_trainings_by_two_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The losses of one process, in the same folder; evaluations are not shared out."""
    words = {"title": "Two", "protocol": "base2new", "datasets": ["tiny_shapes"], "seeds": [1]}
    file, found = write(tmp_path / "table.yaml", methods=[{"trainer": "CoOp"}], **words), {}
    for ranks in ("1", "2"):
        argv = [file, *TINY, "OPTIM.MAX_EPOCH", "3", "--out", str(tmp_path / ranks), "--ranks", ranks]
        assert sweep.main(argv) == 0
        found[ranks] = {
            path.parent.relative_to(tmp_path / ranks): read_json(str(path))
            for path in (tmp_path / ranks).rglob("metrics.json")
        }
    assert found["1"].keys() == found["2"].keys()
    assert sorted(record["world_size"] for record in found["2"].values()) == [1, 2]
    for name, record in found["1"].items():
        losses = [epoch["loss"] for epoch in record["history"]]
        assert [epoch["loss"] for epoch in found["2"][name]["history"]] == pytest.approx(losses, rel=1e-4)
    assert sweep.main([*argv[:-1], "1", "--dry-run"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-2:]] == ["done", "done"]


def test_the_chain_by_two_processes_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trainings by torchrun with the images a step of one process; each evaluation by one."""
    argv = ["configs/benchmarks/embedded_chain.yaml", "--dry-run", "--out", str(tmp_path), "--ranks", "2"]
    assert sweep.main(argv) == 0
    commands = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()[1:]]
    trainings = [command for command in commands if "--eval-only" not in command]
    assert len(trainings) == 4 and len(commands) == 14
    for command in commands:
        assert command.startswith("torchrun --nproc_per_node 2 " if command in trainings else "python ")
    batches = [command.rpartition("OPTIM.GLOBAL_BATCH ")[2] for command in trainings]
    assert batches == ["32", "32", "8", "8"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--ranks", "0"), "--ranks must be 1 or more, but is 0"),
        (("--ranks", "2", "--gpus", "0,1"), "--ranks and --gpus do not go together"),
        (("--ranks", "3"), "3 processes cannot share 32 images a step evenly"),
    ],
)
def test_mistakes_of_ranks(words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["configs/benchmarks/embedded_chain.yaml", "--dry-run", *words]) == 2
    assert text in capsys.readouterr().err


def test_a_gpu_is_given_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(workers.subprocess, "Popen", lambda words, env, **_: started.append((words, env)))
    workers.ProcessWorker("3").start(jobs.Job(RUN, str(tmp_path), ("--trainer", "RPP")))
    ((words, env),) = started
    assert env["CUDA_VISIBLE_DEVICES"] == "3" and "--trainer" in words[-1]


# Scheduling -----------------------------------------------------------------------------------------------------------


class Recorder:
    """Ends every job at the second look, with the status that its folder's name tells."""

    log: list[str]

    def __init__(self, log: list[str]) -> None:
        self.log, self.looks = log, 0

    def start(self, job: jobs.Job) -> None:
        self.job, self.looks = job, 0
        self.log.append(f"start {Path(job.output_dir).name}")

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks < 2:
            return None
        self.log.append(f"end {Path(self.job.output_dir).name}")
        return 1 if "bad" in self.job.output_dir else 0

    def stop(self) -> None:
        self.log.append("stop")


def job(folder: Path, name: str, *needs: str) -> jobs.Job:
    return jobs.Job(RUN, str(folder / name), ("--trainer", "CoOp"), tuple(str(folder / need) for need in needs))


def test_jobs_run_side_by_side_and_wait_for_what_they_need(tmp_path: Path) -> None:
    log: list[str] = []
    todo = [job(tmp_path, "a"), job(tmp_path, "b", "a"), job(tmp_path, "bad"), job(tmp_path, "d", "bad")]
    todo.append(job(tmp_path, "e", "d"))
    failed = jobs.carry_out(todo, [Recorder(log), Recorder(log)])
    assert [Path(one.output_dir).name for one in failed] == ["bad", "d", "e"]
    assert log[:2] == ["start a", "start bad"] and log.index("end a") < log.index("start b")
    assert "start d" not in log and "start e" not in log
    assert "status 1" in (tmp_path / "bad" / "error.txt").read_text()


def test_a_job_is_refused_in_a_folder_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a run of train.py or by another sweep's job."""
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0)
    method = [Method("CoOp")]
    (one,) = sweep.plan_jobs(Benchmark("t", "fewshot", method, datasets=["tiny_digits"], seeds=[1]), out=str(tmp_path))
    with sole_user_of(one.output_dir):
        assert jobs.work(one, quiet=True) == 1
    assert "is in use" in (Path(one.output_dir) / "error.txt").read_text()


# Benchmark files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_every_file_can_be_planned(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main([str(path), "--dry-run", "--root", "/data", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3 and all("--config-file" in line for line in lines[1:])
    assert path.read_text().startswith("# ")


@pytest.mark.usefixtures("small_world")
@pytest.mark.parametrize(
    ("name", "only", "count"),
    [
        ("demo", "ZeroshotCLIP,RPP,tiny_shapes", 11),  # transfer 4, base and new of 3, what one of them starts from
        ("embedded_ablation", "POMP,tiny_print", 6),  # three lengths, and the one amount of data that is left
        ("embedded_base2new", "ZeroshotCLIP,RPP,tiny_shapes", 7),  # RPP twice, and its pretraining
        ("embedded_xd", "ZeroshotCLIP,RPP,tiny_digits", 4),
        ("embedded_dg", "MaPLe,tiny_source_warp", 2),
        ("embedded_pretrain", "POMP,tiny_counts", 2),
        (
            "embedded_chain",
            "RPP,tiny_shapes",
            8,
        ),  # tables of 2, 2, 1 and 2, and the start
        ("embedded_fewshot", "RPP,tiny_textures", 3),  # with the prompts that one of them starts from
    ],
)
def test_every_embedded_file_runs(
    name: str, only: str, count: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = f"configs/benchmarks/{name}.yaml"
    assert sweep.main([file, "--seeds", "1", "--only", only, "--out", str(tmp_path), *TINY]) == 0
    assert len(accuracies(tmp_path)) == count
    assert f", tiny{'' if name == 'embedded_fewshot' else ', 1 shots'}\n" in capfd.readouterr().out  # the table's title


@pytest.mark.parametrize("protocol", ["base2new", "fewshot", "xd", "dg"])
def test_all_methods_with_settings_are_in_the_tables_of_all(protocol: str) -> None:
    (table,) = sweep.read_benchmarks(f"configs/benchmarks/all_{protocol}.yaml")
    expected = [row.name for row in methods().values() if not row.zero_shot and protocol in row.recipes]
    assert [method.trainer for method in table.methods] == ["ZeroshotCLIP", *expected] and table.protocol == protocol
    assert sweep.plan_jobs(replace(table, seeds=[1], datasets=table.datasets[:1]))


def test_a_grid_has_a_folder_for_each_combination() -> None:
    method = Method("RPP", grid={"TRAINER.RPP.QKV": ["shared", "kv"], "TRAINER.RPP.LAMBDA": [0.5, 2.0]})
    table = Benchmark("t", "fewshot", [method], datasets=["dtd"], seeds=[1], shots=[2])
    planned = sweep.plan_jobs(table)
    folders = [Path(one.output_dir).parent.name for one in planned]
    config = "vit_b16_ep50_batch4_few_shot"
    assert folders == [f"{config}-qkv_{q}-lambda_{value}_2shots" for q in ("shared", "kv") for value in (0.5, 2.0)]
    assert planned[1].argv[-4:] == ("TRAINER.RPP.QKV", "shared", "TRAINER.RPP.LAMBDA", "2.0")


def test_a_grid_may_say_1_for_1_0() -> None:
    """The whole number is the float: the same folder, none of its own where the config has it anyway."""
    folders = []
    for values in ([1.0, 2.0], [1, 2]):
        method = Method("RPP", grid={"TRAINER.RPP.LAMBDA": values})
        planned = sweep.plan_jobs(Benchmark("t", "fewshot", [method], datasets=["dtd"], seeds=[1], shots=[2]))
        folders.append([Path(one.output_dir).parent.name for one in planned])
    assert folders[0] == folders[1] == [f"vit_b16_ep50_batch4_few_shot{end}_2shots" for end in ("", "-lambda_2.0")]


@pytest.mark.usefixtures("small_world")
def test_a_file_may_hold_several_tables(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Pretraining, and tuning that starts from it: trained once, a table for each, and the difference asked for."""
    transfer = {
        "title": "First",
        "protocol": "pretrain",
        "source": "tiny_source",
        "datasets": ["tiny_shapes"],
        "methods": [{"trainer": "POMP"}, {"trainer": "RPP"}],
        "compare": [["RPP", "POMP"]],
    }
    start = {"trainer": "RPP", "init": {"method": "RPP", "shots": 1}}
    tuning = {"title": "Second", "protocol": "fewshot", "datasets": ["tiny_shapes"], "methods": [start]}
    common = {"seeds": [1, 2], "shots": [1]}
    file = tmp_path / "both.yaml"
    file.write_text(yaml.safe_dump([{**transfer, **common}, {**tuning, **common}]))
    assert sweep.main([str(file), *TINY, "--out", str(tmp_path / "out")]) == 0
    out = capfd.readouterr().out
    folders = accuracies(tmp_path / "out")
    assert len(folders) == 2 * (2 * 2 + 1) and "tiny_shapes/RPP/tiny-pretrained_1shots/seed2" in folders
    assert out.startswith("First; Second\n") and out.count("Few-shot learning, tiny\n") == 1
    values = {
        (method, seed): folders[f"evaluation/{method}/tiny_source_1shots/tiny_shapes/seed{seed}"]
        for method in ("RPP", "POMP")
        for seed in (1, 2)
    }
    mean = sum(values["RPP", seed] - values["POMP", seed] for seed in (1, 2)) / 2
    table = out[out.index("Differences of the same seeds: Cross-dataset") :]
    assert f"{mean:+.2f} ±" in table and "* RPP - POMP, tiny_source (source): " in table


def trained(name: str, *only: str) -> list[str]:
    """The settings' folder of every training that a benchmark file plans."""
    (benchmark,) = sweep.narrowed(sweep.read_benchmarks(f"configs/benchmarks/{name}.yaml"), only, [])
    first = benchmark.seeds[0]
    planned = sweep.plan_jobs(replace(benchmark, seeds=[first]), root="/data")
    return [Path(one.output_dir).parent.name for one in planned if "--eval-only" not in one.argv]


def test_settings_that_the_config_has_anyway_share_the_plain_run() -> None:
    """So the four grids pretrain once with lambda 1, temperature 1, and the student as teacher with one template."""
    plain = "vit_b16_ep5_randaug2"
    added = ["-lambda_0.0", "-lambda_0.5", "", "-lambda_2.0", "-temperature_0.5", "-temperature_2.0"]
    added += ["-temperature_4.0", "-backbone_ViT-L_14", "-templates_ensemble"]
    assert trained("rpp_ablation_supervision") == [f"{plain}{name}_16shots" for name in added]
    assert trained("rpp_pretrain", "RPP") == [f"{plain}_16shots"]
    assert trained("rpp_fig3", "RPP") == [
        f"{plain}{end}_16shots" for end in ("-max_epoch_2", "", "-max_epoch_10", "-max_epoch_20")
    ]
    plain = "vit_b16_c2_ep5_batch4_2ctx"
    depths, lengths = [f"-prompt_depth_{n}" for n in (1, 3, 6, 12)], [f"-n_ctx_{n}" for n in (1, 4, 6, 8)]
    assert {*trained("maple_fig4", "dtd")} == {plain + end for end in ("", *depths, *lengths)}
    assert len(trained("maple_fig4", "dtd")) == 9


def test_what_a_config_has_depends_on_the_data_set() -> None:
    """CoOp learns ImageNet in 50 epochs, other data sets with 16 shots in 200."""
    method = Method("CoOp", opts={"OPTIM.MAX_EPOCH": 50})
    table = Benchmark("t", "fewshot", [method], datasets=["dtd", "imagenet"], seeds=[1])
    dtd, imagenet = sweep.plan_jobs(table)
    assert "/vit_b16-max_epoch_50_16shots/" in dtd.output_dir and dtd.argv[-2:] == ("OPTIM.MAX_EPOCH", "50")
    assert "/vit_b16_ep50_16shots/" in imagenet.output_dir and "OPTIM.MAX_EPOCH" not in imagenet.argv


def test_pretraining_comes_before_what_starts_from_it() -> None:
    method = Method("RPP", init={"method": "RPP", "seed": 42})
    table = Benchmark("t", "base2new", [method], datasets=["dtd", "eurosat"], seeds=[1, 2])
    first, *rest = sweep.plan_jobs(table)
    assert first.output_dir == "output/imagenet_21k/RPP/vit_b16_ep5_randaug2_16shots/seed42" and len(rest) == 8
    for one in rest[::2]:
        assert one.needs == (first.output_dir,) and one.argv[-2:] == ("TRAINER.INIT_PROMPTS", first.output_dir)
        assert "-pretrained" in one.output_dir


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"protocol": "base2now"}, "did you mean base2new"),
        ({"method": []}, "unknown key of a benchmark 'method'; did you mean methods"),
        ({"methods": [{"trainer": "CoOp", "cfg": "rn50"}]}, "unknown key of a method 'cfg'"),
        ({"methods": [{"config": "rn50"}]}, "trainer"),
        ({"methods": []}, "it has no methods"),
        ({"datasets": []}, "it has no datasets"),
        ({"seeds": []}, "it has no seeds"),
        ({"datasets": "dtd"}, "datasets must be a list, but is 'dtd'"),
        ({"compare": [["CoOp"]]}, "compare must be a list of pairs [A, B], but is [['CoOp']]"),
    ],
)
def test_a_mistake_in_a_file_is_named(
    change: dict[str, object], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"title": "t", "protocol": "base2new", "methods": [{"trainer": "CoOp"}], **change}
    file = write(tmp_path / "t.yaml", **content)
    assert sweep.main([file]) == 2
    error = capsys.readouterr().err
    assert file in error and text in error and len(error.splitlines()) == 1


def test_mistakes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main([small_table(tmp_path), "--only", "CoPo"]) == 2
    assert "did you mean CoOp" in capsys.readouterr().err
    for name in ("maple_table3", "maple_table6", "rpp_pretrain"):
        assert sweep.main([f"configs/benchmarks/{name}.yaml", "--root", ""]) == 2
        assert "give the folder that holds them by --root" in capsys.readouterr().err
    assert sweep.main([small_table(tmp_path), "--slurm", "gpu", "--out", str(tmp_path)]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err
