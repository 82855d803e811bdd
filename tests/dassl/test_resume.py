"""An interrupted and resumed run ends with the weights of an uninterrupted one, bit for bit."""

import contextlib
import json
import os
import signal
from functools import partial

import pytest
import torch
from torch import nn

from dassl.data import data_manager
from dassl.engine import build_trainer, interruption, models
from dassl.utils import save_torch
from tests.dassl.toy import Linear, toy_cfg


def run(output_dir, *opts: object) -> Linear:
    trainer = build_trainer(toy_cfg(output_dir, *opts))
    trainer.train()
    return trainer


def interrupted(output_dir, monkeypatch, epoch: int, *opts: object) -> None:
    """Train, and stop in the middle of ``epoch`` (from 0)."""
    step = Linear.forward_backward

    def forward_backward(self, batch):
        if (self.epoch, self.batch_idx) == (epoch, 1):
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Linear, "forward_backward", forward_backward)
        run(output_dir, *opts)


def state_of(trainer: Linear) -> list[torch.Tensor]:
    buffers = [state["momentum_buffer"] for state in trainer._optims["linear"].state_dict()["state"].values()]
    return [*trainer.model.state_dict().values(), *buffers]


@pytest.mark.parametrize("epoch", [0, 1, 3])
@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("DATALOADER.NUM_WORKERS", 2, "INPUT.TRANSFORMS", ("randaugment2", "random_resized_crop")),
        ("OPTIM.WARMUP_TYPE", "linear", "OPTIM.WARMUP_EPOCH", 2, "TRAIN.CHECKPOINT_FREQ", 1, "SEED", 0),
        ("TEST.FINAL_MODEL", "best_val", "DATALOADER.TRAIN_X.BATCH_SIZE", 4, "DATASET.NUM_SHOTS", 5),
    ],
)
def test_same_weights(tmp_path, monkeypatch, capsys, opts, epoch):
    monkeypatch.setattr(data_manager, "cpu_count", lambda: 2)
    straight = run(tmp_path / "straight", *opts)
    interrupted(tmp_path / "cut", monkeypatch, epoch, *opts)
    assert (tmp_path / "cut" / "linear" / "model-last.pth.tar").exists() == (epoch > 0)
    capsys.readouterr()
    resumed = run(tmp_path / "cut", *opts)
    out = capsys.readouterr().out
    assert ("will resume training" in out) == (epoch > 0) and f"epoch [{epoch + 1}/4]" in out
    assert f"epoch [{epoch}/4]" not in out
    assert all(torch.equal(a, b) for a, b in zip(state_of(straight), state_of(resumed)))
    results = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("straight", "cut")]
    for result in results:
        for row in result["history"]:
            row.pop("seconds")
    assert results[0]["results"] == results[1]["results"] and results[0]["history"] == results[1]["history"]
    assert sorted(os.listdir(tmp_path / "cut" / "linear")) == sorted(os.listdir(tmp_path / "straight" / "linear"))


def test_a_drawn_seed_is_kept(tmp_path, monkeypatch):
    opts = ("DATASET.NUM_SHOTS", 3, "DATALOADER.TRAIN_X.BATCH_SIZE", 3)
    interrupted(tmp_path, monkeypatch, 2, "SEED", -1, *opts)
    first = torch.load(tmp_path / "linear" / "model-last.pth.tar", weights_only=True)["run_seed"]
    resumed = run(tmp_path, "SEED", -1, *opts)
    again = run(tmp_path / "again", "SEED", first, *opts)
    assert resumed.run_seed == first
    assert all(torch.equal(a, b) for a, b in zip(state_of(resumed), state_of(again)))
    other = build_trainer(toy_cfg(tmp_path / "other", "SEED", -1))
    assert other.run_seed != first


def test_a_finished_run_is_only_evaluated(tmp_path, capsys):
    first = state_of(run(tmp_path))
    capsys.readouterr()
    second = run(tmp_path)
    out = capsys.readouterr().out
    assert "Previous epoch: 4" in out and "batch [" not in out and "* total: 12" in out
    assert all(torch.equal(a, b) for a, b in zip(first, state_of(second)))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert len(metrics["history"]) == 4 and metrics["epoch"] == 4


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    run(tmp_path, "OPTIM.MAX_EPOCH", 1)
    with pytest.raises(ValueError) as caught:
        changes = ("OPTIM.MAX_EPOCH", 2, "OPTIM.LR", 0.2, "INPUT.SIZE", (16, 16), "DATALOADER.CACHE_FEATURES", True)
        run(tmp_path, *changes, "DATALOADER.CACHE", "ram")
    message = str(caught.value)
    assert f'"{tmp_path}" holds a run of another configuration' in message
    assert "OPTIM.LR: 0.1 there, 0.2 now" in message and "OPTIM.MAX_EPOCH: 1 there, 2 now" in message
    assert "DATALOADER.CACHE_FEATURES: False there, True now" in message and "DATALOADER.CACHE:" not in message
    assert "INPUT.SIZE: [8, 8] there, [16, 16] now" in message and "OPTIM.NAME" not in message


@pytest.mark.parametrize(
    "content", [b"", b"OPTIM: [1", b"- 1", "SEED: 1".encode("utf-16"), "# \u00e9".encode("latin-1")]
)
def test_a_broken_record_of_the_config_is_told_with_its_path(tmp_path, content):
    run(tmp_path, "OPTIM.MAX_EPOCH", 1)
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.yaml.*restore it, or take another folder") as caught:
        run(tmp_path, "OPTIM.MAX_EPOCH", 1)
    assert "\n" not in str(caught.value)


def test_a_damaged_pointer_is_named(tmp_path):
    run(tmp_path, "OPTIM.MAX_EPOCH", 1)
    (tmp_path / "linear" / "checkpoint").write_bytes(b"\xff\xfem\0o\0")
    with pytest.raises(ValueError, match=r"linear/checkpoint\" is not a text file in UTF-8"):
        run(tmp_path, "OPTIM.MAX_EPOCH", 1)


def test_harmless_differences_and_fresh_folders_are_fine(tmp_path):
    run(tmp_path, "OPTIM.MAX_EPOCH", 1)
    run(tmp_path, "OPTIM.MAX_EPOCH", 1, "TRAIN.PRINT_FREQ", 1, "DATASET.ROOT", "/elsewhere", "TEST.NO_TEST", True)
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "config.yaml").write_text("OPTIM:\n  LR: 9.0\n")  # but no checkpoint
    assert run(tmp_path / "fresh", "OPTIM.MAX_EPOCH", 1).epochs_done == 1


def test_resume_from_another_folder(tmp_path, monkeypatch):
    straight = run(tmp_path / "straight")
    interrupted(tmp_path / "cut", monkeypatch, 2)
    resumed = run(tmp_path / "new", "RESUME", str(tmp_path / "cut"))
    assert all(torch.equal(a, b) for a, b in zip(state_of(straight), state_of(resumed)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": None}, "no state of the optimizer.*TRAINER.INIT_PROMPTS"),
        ({"scheduler": None}, "no state of the scheduler"),
        ({"epoch": 9}, "is of epoch 9, but OPTIM.MAX_EPOCH is 4"),
        ({"epoch": None}, "is not the state of a run"),
    ],
)
def test_a_state_that_cannot_be_continued(tmp_path, monkeypatch, change, message):
    """Nothing is trained, the folder stays as it was."""
    interrupted(tmp_path, monkeypatch, 2)
    path = tmp_path / "linear" / "model-last.pth.tar"
    save_torch({**torch.load(path, weights_only=True), **change}, str(path))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(tmp_path)
    assert contents(tmp_path) == before


def contents(folder) -> dict:
    """All files but TensorBoard's, which the thread of an interrupted run in this process may still be writing."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "tensorboard"]
    return {path: path.read_bytes() for path in files}


def test_a_finished_run_needs_no_optimiser(tmp_path):
    first = run(tmp_path).record.results
    path = tmp_path / "linear" / "model.pth.tar-4"
    save_torch({**torch.load(path, weights_only=True), "optimizer": None, "scheduler": None}, str(path))
    assert run(tmp_path).record.results == first


def test_a_checkpoint_of_the_familys_form_resumes_at_the_right_rate(tmp_path):
    """Optimiser state plain, scheduler state with a pickled successor that must not be used."""
    donor = run(tmp_path / "donor")
    checkpoint = torch.load(tmp_path / "donor" / "linear" / "model.pth.tar-4", weights_only=True)
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(donor._optims["linear"], 4)
    checkpoint = {key: checkpoint[key] for key in ("state_dict", "optimizer")}
    checkpoint |= {"epoch": 2, "scheduler": {"last_epoch": 2, "successor": successor, "cons_lr": 1e-5}}
    save_torch(checkpoint, str(tmp_path / "run" / "linear" / "model.pth.tar-2"))
    (tmp_path / "run" / "linear" / "checkpoint").write_text("model.pth.tar-2\n")
    run(tmp_path / "run")
    history = json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]
    straight = json.loads((tmp_path / "donor" / "metrics.json").read_text())["history"]
    assert [(row["epoch"], row["lr"]) for row in history] == [(row["epoch"], row["lr"]) for row in straight[2:]]


def test_a_run_that_goes_on_elsewhere_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    """It takes the best epoch so far along, and interrupted again it goes on where it was, not where it came from."""
    opts = ("TEST.FINAL_MODEL", "best_val", "OPTIM.LR", 30.0)  # the first epochs are the best
    straight = run(tmp_path / "straight", *opts)
    interrupted(tmp_path / "cut", monkeypatch, 2, *opts)
    moved = (*opts, "RESUME", str(tmp_path / "cut"))
    interrupted(tmp_path / "elsewhere", monkeypatch, 3, *moved)
    ended = run(tmp_path / "elsewhere", *moved)
    assert ended.start_epoch == 3
    assert all(torch.equal(a, b) for a, b in zip(state_of(straight), state_of(ended)))
    results = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("straight", "elsewhere")]
    assert results[0]["results"] == results[1]["results"]
    best = max(row["val_accuracy"] for row in results[0]["history"])
    assert best == results[1]["results"]["val"]["accuracy"]


@pytest.mark.parametrize("final", ["best_val", "last_step"])
def test_what_decides_which_epoch_is_kept_must_not_change(tmp_path, monkeypatch, final):
    opts = ("TEST.FINAL_MODEL", final)
    interrupted(tmp_path, monkeypatch, 2, *opts, "TEST.NO_TEST", True)
    if final == "last_step":
        assert run(tmp_path, *opts).start_epoch == 2
        return
    with pytest.raises(ValueError, match=r"TEST.NO_TEST: True there, False now"):
        run(tmp_path, *opts)


# In the middle of an epoch

EVERY_STEP = ("TRAIN.CHECKPOINT_STEPS", 1)


def stopped_before(output_dir, monkeypatch, step: tuple[int, int], *opts: object) -> None:
    """Train with a checkpoint after each step, and stop when ``step`` (epoch, batch) is to be made."""
    make_step = Linear.forward_backward

    def forward_backward(self, batch):
        if (self.epoch, self.batch_idx) == step:
            raise KeyboardInterrupt
        return make_step(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Linear, "forward_backward", forward_backward)
        run(output_dir, *EVERY_STEP, *opts)


def records(folder) -> dict:
    """What ``metrics.json`` says, without times."""
    metrics = json.loads((folder / "metrics.json").read_text())
    for row in metrics["history"]:
        row.pop("seconds")
    return {key: metrics[key] for key in ("history", "results", "epoch")}


@pytest.mark.parametrize("step", [(0, 1), (1, 2), (2, 0), (3, 1)])
@pytest.mark.parametrize(
    "opts",
    [
        ("DATALOADER.TRAIN_X.SAMPLER", "RandomClassSampler", "DATALOADER.TRAIN_X.N_INS", 4),
        ("DATALOADER.NUM_WORKERS", 2, "TEST.FINAL_MODEL", "best_val"),
        ("DATALOADER.CACHE", "ram", "DATASET.NUM_SHOTS", 8),
        ("TEST.FINAL_MODEL", "best_val", "TEST.SELECT_STEPS", 2, "TEST.SELECT_EPOCHS", 0, "OPTIM.LR", 3.0),
    ],
)
def test_same_weights_from_any_step(tmp_path, monkeypatch, capsys, opts, step):
    """The toy has dropout, so that the generators' states count; samplers draw from all of them."""
    monkeypatch.setattr(data_manager, "cpu_count", lambda: 2)
    straight = run(tmp_path / "straight", *opts)
    stopped_before(tmp_path / "cut", monkeypatch, step, *opts)
    capsys.readouterr()
    resumed = run(tmp_path / "cut", *opts)
    out = capsys.readouterr().out
    assert (f"Going on after epoch [{step[0] + 1}/4] batch [{step[1]}/3]" in out) == (step[1] > 0)
    assert f"epoch [{step[0] + 1}/4] batch [{step[1]}/3] time" not in out
    assert all(torch.equal(a, b) for a, b in zip(state_of(straight), state_of(resumed)))
    assert records(tmp_path / "straight") == records(tmp_path / "cut")
    assert sorted(os.listdir(tmp_path / "cut" / "linear")) == sorted(os.listdir(tmp_path / "straight" / "linear"))


@pytest.mark.parametrize("moment", ["before", "within"])
@pytest.mark.parametrize("look", [0, 1, 2, 4])
def test_interrupted_in_a_look_at_validation_images_the_run_goes_on_with_it(tmp_path, monkeypatch, look, moment):
    """By a signal, which the evaluation notices, or killed just before it; the best state so far is found again."""
    opts = ("TEST.FINAL_MODEL", "best_val", "TEST.SELECT_STEPS", 2, "TEST.SELECT_EPOCHS", 0, "OPTIM.LR", 3.0)
    straight = run(tmp_path / "straight", *opts)
    looks = []

    def test(self, split=None):
        looks.append(split)
        if len(looks) == look + 1 and moment == "before":
            raise KeyboardInterrupt
        if len(looks) == look + 1:
            self.watch.ending = signal.SIGTERM
        return super(Linear, self).test(split)

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, SystemExit)):
        patch.setattr(Linear, "test", test, raising=False)
        run(tmp_path / "cut", *opts)
    assert looks == ["val"] * (look + 1)
    resumed = run(tmp_path / "cut", *opts)
    assert all(torch.equal(a, b) for a, b in zip(state_of(straight), state_of(resumed)))
    assert records(tmp_path / "straight") == records(tmp_path / "cut")
    best = [torch.load(tmp_path / name / "linear" / "model-best.pth.tar") for name in ("straight", "cut")]
    assert best[0]["val_result"] == best[1]["val_result"] and best[0]["epoch"] == best[1]["epoch"]
    assert best[0]["position"]["step"] == best[1]["position"]["step"]


def test_stopped_more_than_once(tmp_path, monkeypatch):
    straight = run(tmp_path / "straight")
    for step in ((0, 1), (0, 2), (2, 1)):
        stopped_before(tmp_path / "cut", monkeypatch, step)
    assert all(torch.equal(a, b) for a, b in zip(state_of(straight), state_of(run(tmp_path / "cut"))))


def test_what_is_kept(tmp_path, monkeypatch):
    """The newest so many; all go when the last epoch is saved."""
    for keep, names in ((1, []), (3, ["model-last-1.pth.tar", "model-last-2.pth.tar"])):
        folder = tmp_path / str(keep)
        stopped_before(folder, monkeypatch, (2, 1), "TRAIN.KEEP_STATES", keep)
        assert sorted(os.listdir(folder / "linear")) == [*names, "model-last.pth.tar"]
        states = [torch.load(folder / "linear" / name, weights_only=True) for name in ["model-last.pth.tar", *names]]
        found = [(state["epoch"], (state.get("position") or {}).get("step", 0)) for state in states]
        assert found == [(2, 1), (2, 0), (1, 3)][:keep]
        run(folder)
        assert sorted(os.listdir(folder / "linear")) == ["checkpoint", "model.pth.tar-4"]


def test_a_damaged_state_is_told_and_the_one_before_it_taken(tmp_path, monkeypatch, capsys):
    straight = run(tmp_path / "straight")
    stopped_before(tmp_path / "cut", monkeypatch, (2, 2))
    last = tmp_path / "cut" / "linear" / "model-last.pth.tar"
    last.write_bytes(last.read_bytes()[:500])
    capsys.readouterr()
    resumed = run(tmp_path / "cut")
    out = capsys.readouterr().out
    assert "Note: it is damaged" in out and "model-last.pth.tar" in out
    assert "Going on after epoch [3/4] batch [1/3]" in out
    assert all(torch.equal(a, b) for a, b in zip(state_of(straight), state_of(resumed)))
    stopped_before(tmp_path / "only", monkeypatch, (0, 1), "TRAIN.KEEP_STATES", 1)
    last = tmp_path / "only" / "linear" / "model-last.pth.tar"
    last.write_bytes(b"")
    with pytest.raises(ValueError, match=r"model-last\.pth\.tar"):
        run(tmp_path / "only")


def test_leftovers_of_a_kill_are_removed(tmp_path, monkeypatch):
    """Temporary files of ours; nothing else."""
    stopped_before(tmp_path, monkeypatch, (1, 1))
    ours = [tmp_path / "linear" / ".model-last.pth.tar.ab_1.tmp", tmp_path / ".metrics.json.x1y2.tmp"]
    others = [tmp_path / "linear" / ".notes.tmp", tmp_path / "mine.tmp"]
    for path in (*ours, *others):
        path.write_text("x")
    run(tmp_path)
    assert not any(path.exists() for path in ours) and all(path.exists() for path in others)


def test_models_of_one_step_are_taken(tmp_path, monkeypatch):
    """A process that died between two models' files: the newest step that both have counts."""

    def build_model(self):
        Linear.build_model(self)
        self.register_model("second", nn.Linear(1, 1))

    Two = type("Two", (Linear,), {"build_model": build_model})
    cfg = ("TRAIN.CHECKPOINT_STEPS", 1, "TRAIN.KEEP_STATES", 2)
    straight = Two(toy_cfg(tmp_path / "straight"))
    straight.train()
    cut = Two(toy_cfg(tmp_path / "cut", *cfg))
    save, calls = models.save_state, []

    def save_state(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        save(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(models, "save_state", save_state)
        cut.train()
    again = Two(toy_cfg(tmp_path / "cut"))
    again.train()
    assert all(torch.equal(a, b) for a, b in zip(state_of(straight), state_of(again)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
def test_signals_leave_a_checkpoint_of_their_step(tmp_path, monkeypatch, capsys, request, number):
    """SIGUSR1 lets the run go on."""
    straight = run(tmp_path / "straight")
    make_step = Linear.forward_backward

    def forward_backward(self, batch):
        if (self.epoch, self.batch_idx) == (1, 1) and not self.position:
            os.kill(os.getpid(), number)
        return make_step(self, batch)

    ends = {signal.SIGTERM: pytest.raises(SystemExit, match="143"), signal.SIGINT: pytest.raises(KeyboardInterrupt)}
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    request.addfinalizer(partial(signal.signal, number, signal.signal(number, usual)))  # a shell may have it ignored
    with monkeypatch.context() as patch, ends.get(number, contextlib.nullcontext()):
        patch.setattr(Linear, "forward_backward", forward_backward)
        if number == signal.SIGUSR1:
            patch.setattr(Linear, "after_epoch", lambda self: stop_after(self))
            with pytest.raises(StopIteration):
                run(tmp_path / "cut")
        else:
            run(tmp_path / "cut")
    assert signal.getsignal(number) is usual
    state = torch.load(tmp_path / "cut" / "linear" / "model-last.pth.tar", weights_only=True)
    assert (state["epoch"], state["position"]["step"]) == (1, 2)
    if number != signal.SIGUSR1:
        assert f"Stopped by {number.name} after epoch [2/4] batch [2/3]" in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(state_of(straight), state_of(run(tmp_path / "cut"))))


def stop_after(trainer: Linear) -> None:
    if trainer.epoch == 1:
        raise StopIteration


def test_minutes_are_counted_from_the_last_checkpoint(monkeypatch):
    now = 0.0
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now)
    watch, due = interruption.Watch(steps=0, minutes=10.0), []
    for now in range(0, 3000, 100):
        if watch.is_due():
            due.append(now)
            watch.saved()
    assert due == [600, 1200, 1800, 2400]
    watch = interruption.Watch(steps=3, minutes=0.0)
    found = []
    for _ in range(7):
        found.append(watch.is_due())
        if found[-1]:
            watch.saved()
    assert found == [False, False, True, False, False, True, False]


def test_other_data_is_refused(tmp_path, monkeypatch):
    stopped_before(tmp_path, monkeypatch, (1, 1))
    trainer = build_trainer(toy_cfg(tmp_path))
    trainer.lab2cname = {0: "crimson", 1: "green", 2: "blue_sky"}
    with pytest.raises(ValueError, match="other data: the class names"):
        trainer.train()
