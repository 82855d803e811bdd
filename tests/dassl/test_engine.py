import errno
import json
import os
import re

import pytest
import torch
import yaml
from torch import nn

from dassl.config import flatten_cfg
from dassl.data import DataManager
from dassl.data.datasets import fewshot_hash
from dassl.data.transforms import build_transform
from dassl.engine import SimpleTrainer, TrainerBase, build_trainer, selection
from dassl.optim.lr_scheduler import EpochScheduler
from dassl.utils import tools
from tests.dassl.toy import Linear, squares, toy_cfg


def trained(output_dir, *opts: object) -> Linear:
    trainer = build_trainer(toy_cfg(output_dir, *opts))
    trainer.train()
    return trainer


def metrics_of(output_dir) -> dict:
    return json.loads((output_dir / "metrics.json").read_text())


class TestRun:
    def test_files_and_log_lines(self, tmp_path, capsys):
        trainer = trained(tmp_path)
        assert sorted(os.listdir(tmp_path)) == ["config.yaml", "linear", "metrics.json", "tensorboard"]
        assert sorted(os.listdir(tmp_path / "linear")) == ["checkpoint", "model.pth.tar-4"]
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "Loading trainer: Linear"
        pattern = (
            r"epoch \[1/4\] batch \[1/3\] time \d\.\d{3} \(\d\.\d{3}\) data \d\.\d{3} \(\d\.\d{3}\) "
            r"loss \d\.\d{4} \(\d\.\d{4}\) lr 1\.0000e-05 eta \d:\d\d:\d\d "
            r"images/s \d+\.\d waiting \d+%"
        )
        steps = [line for line in lines if line.startswith("epoch")]
        assert len(steps) == 12 and re.fullmatch(pattern, steps[0])
        assert "lr 1.0000e-01 " in steps[2]  # after the last batch it is the next epoch's
        end = lines.index(f"Checkpoint saved to {tmp_path}/linear/model.pth.tar-4")
        assert lines[end + 1 : end + 5] == [
            "Finish training",
            "Finished training",
            "Deploy the last-epoch model",
            "Evaluate on the *test* set",
        ]
        assert re.fullmatch(r"Elapsed: 0:00:\d\d", lines[-1])
        assert trainer.epochs_done == 4

    def test_metrics(self, tmp_path):
        trainer = trained(tmp_path, "DATASET.NUM_SHOTS", 4)
        metrics = metrics_of(tmp_path)
        expected = {
            "trainer": "Linear",
            "dataset": "Squares",
            "backbone": "",
            "seed": 1,
            "num_shots": 4,
            "subsample_classes": "all",
            "num_classes": 3,
            "eval_only": False,
            "epoch": 4,
            "max_epoch": 4,
            "fewshot_hash": fewshot_hash(trainer.dm.dataset.train_x),
            "num_train": 12,
            "num_val": 6,
            "num_test": 12,
            "trainable_parameters": 12,
            "device": "cpu",
            "status": "finished",
        }
        assert expected.items() <= metrics.items()
        test = metrics["results"]["test"]
        assert test["total"] == 12 and test["accuracy"] == 100 * test["correct"] / 12
        assert [row["classname"] for row in test["per_class"]] == ["red", "green", "blue_sky"]
        assert [epoch["epoch"] for epoch in metrics["history"]] == [1, 2, 3, 4]
        assert metrics["history"][0]["lr"] == 1e-5 and metrics["history"][1]["lr"] == 0.1
        assert metrics["seconds"]["train"] == pytest.approx(sum(epoch["seconds"] for epoch in metrics["history"]))
        assert 0.05 < metrics["peak_memory_gb"] < 50 and metrics["versions"]["torch"] == torch.__version__

    def test_images_are_kept_in_memory_for_training_only(self, tmp_path, capsys):
        ram = ("DATALOADER.CACHE", "ram")
        build_trainer(toy_cfg(tmp_path / "evaluated", *ram)).test()
        assert "Caching" not in capsys.readouterr().out
        trained(tmp_path / "trained", *ram, "OPTIM.MAX_EPOCH", 1)
        out = capsys.readouterr().out
        assert out.index("Caching 27 training") < out.index("Caching 6 validation") < out.index("epoch [1/1]")

    def test_a_trainer_may_build_its_own_data_manager(self, tmp_path):
        """Its loaders are those that are trained and tested on."""

        class TwoViews(Linear):
            def build_data_manager(self):
                transform = build_transform(self.cfg, is_train=True)
                return DataManager(self.cfg, custom_tfm_train=[transform, lambda image: -transform(image)])

        trainer = TwoViews(toy_cfg(tmp_path))
        batch = next(iter(trainer.train_loader_x))
        assert torch.equal(batch["img2"], -batch["img"])  # of one colour: a crop or a flip does not show
        assert "img2" not in next(iter(trainer.test_loader)) and trainer.dm.train_loader_x is trainer.train_loader_x

    def test_config_is_recorded_resolved(self, tmp_path):
        trained(tmp_path, "OPTIM.MAX_EPOCH", 1)
        recorded = yaml.safe_load((tmp_path / "config.yaml").read_text())
        assert recorded["OPTIM"]["MAX_EPOCH"] == 1 and recorded["INPUT"]["SIZE"] == [8, 8]
        assert flatten_cfg(recorded).keys() == flatten_cfg(toy_cfg("x")).keys()

    def test_no_test_and_checkpoint_frequency(self, tmp_path, capsys):
        trained(tmp_path, "TEST.NO_TEST", True, "TRAIN.CHECKPOINT_FREQ", 2, "TRAIN.PRINT_FREQ", 2, "OPTIM.MAX_EPOCH", 5)
        names = sorted(os.listdir(tmp_path / "linear"))
        assert names == ["checkpoint", "model.pth.tar-2", "model.pth.tar-4", "model.pth.tar-5"]
        out = capsys.readouterr().out
        assert "Evaluate" not in out and "batch [2/3]" in out and "batch [3/3]" not in out
        assert metrics_of(tmp_path)["results"] == {} and metrics_of(tmp_path)["status"] == "finished"

    def test_tensorboard_holds_the_curves(self, tmp_path):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        trained(tmp_path)
        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        assert {"train/loss", "train/lr", "test/accuracy"} <= set(events.Tags()["scalars"])
        assert [event.step for event in events.Scalars("train/loss")] == list(range(12))

    def test_seed_zero_counts(self, tmp_path):
        zero = [trained(tmp_path / str(i), "SEED", 0).model[3].weight for i in range(2)]
        one = trained(tmp_path / "one", "SEED", 1).model[3].weight
        assert torch.equal(*zero) and not torch.equal(zero[0], one)
        assert metrics_of(tmp_path / "0")["seed"] == 0

    def test_evaluation_only(self, tmp_path, capsys):
        result = metrics_of_trained = trained(tmp_path / "train").test()
        trainer = build_trainer(toy_cfg(tmp_path / "eval"))
        trainer.load_model(str(tmp_path / "train"))
        assert trainer.test() == result == metrics_of_trained
        assert (
            f"Load {tmp_path}/train/linear/model.pth.tar-4 to linear (epoch=4, val_result=none)"
            in capsys.readouterr().out
        )
        metrics = metrics_of(tmp_path / "eval")
        assert metrics["eval_only"] and metrics["epoch"] == 4 and metrics["status"] == "finished"
        assert (tmp_path / "eval" / "config.yaml").exists() and not (tmp_path / "eval" / "linear").exists()


class TestSelection:
    def test_best_validation_result_is_deployed(self, tmp_path, monkeypatch, capsys):
        scores = iter([50.0, 75.0, 75.0, 25.0])
        weights = []

        def test(self, split=None):
            if split != "val":
                return SimpleTrainer.test(self, split)
            weights.append(self.model[3].weight.clone())
            self.record.results["val"] = {"accuracy": next(scores)}
            return self.record.results["val"]["accuracy"]

        monkeypatch.setattr(Linear, "test", test, raising=False)
        trainer = trained(tmp_path, "TEST.FINAL_MODEL", "best_val")
        assert torch.equal(trainer.model[3].weight, weights[1]) and trainer.best_result == 75.0
        assert "model-best.pth.tar to linear (epoch=2, val_result=75.0)" in capsys.readouterr().out
        metrics = metrics_of(tmp_path)
        assert metrics["results"]["val"]["accuracy"] == 75.0 and metrics["epoch"] == 4
        assert [epoch["val_accuracy"] for epoch in metrics["history"]] == [50.0, 75.0, 75.0, 25.0]

    @pytest.mark.parametrize(
        ("settings", "looks"),
        [
            ((), [(0, 3), (1, 3), (2, 3), (3, 3)]),
            (("TEST.SELECT_EPOCHS", 3), [(2, 3), (3, 3)]),
            (("TEST.SELECT_EPOCHS", 0), [(3, 3)]),
            (("TEST.SELECT_EPOCHS", 0, "TEST.SELECT_STEPS", 5), [(1, 2), (3, 1), (3, 3)]),
            (("TEST.SELECT_EPOCHS", 2, "TEST.SELECT_STEPS", 2), [(0, 2), (1, 1), (1, 3), (2, 2), (3, 1), (3, 3)]),
            (("TEST.SELECT_STEPS", 1, "TEST.FINAL_MODEL", "best_val"), [(e, s) for e in range(4) for s in (1, 2, 3)]),
        ],
    )
    def test_when_it_looks(self, tmp_path, monkeypatch, settings, looks):
        """Epoch (from 0) and number of steps in it; three make an epoch."""
        seen = []

        def test(self, split=None):
            if split == "val":
                seen.append((self.epoch, self.batch_idx + 1))
            return SimpleTrainer.test(self, split)

        monkeypatch.setattr(Linear, "test", test, raising=False)
        trainer = trained(tmp_path, "TEST.FINAL_MODEL", "best_val", *settings)
        assert trainer.num_batches == 3 and seen == looks

    def test_the_mode_is_that_of_training_after_a_look(self, tmp_path, monkeypatch):
        modes, step = [], Linear.forward_backward

        def forward_backward(self, batch):
            modes.append(self.model.training)
            return step(self, batch)

        monkeypatch.setattr(Linear, "forward_backward", forward_backward)
        trained(tmp_path, "TEST.FINAL_MODEL", "best_val", "TEST.SELECT_STEPS", 1)
        assert modes == [True] * 12

    def test_looks_that_choose_nothing_are_an_error(self, tmp_path):
        with pytest.raises(ValueError, match=r"TEST.SELECT_STEPS needs TEST.FINAL_MODEL best_val"):
            trained(tmp_path, "TEST.SELECT_STEPS", 5)

    def test_without_validation_images_it_is_an_error(self, tmp_path):
        trainer = build_trainer(toy_cfg(tmp_path, "TEST.FINAL_MODEL", "best_val", "DATASET.NAME", "SquaresWithoutVal"))
        with pytest.raises(ValueError, match="SquaresWithoutVal has none: use last_step"):
            trainer.train()
        assert not any(tmp_path.iterdir())
        trainer = build_trainer(toy_cfg(tmp_path, "TEST.FINAL_MODEL", "best_test"))
        with pytest.raises(ValueError, match='"last_step" or "best_val", but got "best_test"'):
            trainer.train()

    @pytest.mark.parametrize("few", [50_000, 3])
    @pytest.mark.parametrize("same", [True, False])
    def test_selecting_on_the_test_set_is_told(self, tmp_path, monkeypatch, capsys, few, same):
        """Of long lists, too; not where others of as many images are validation images."""
        monkeypatch.setattr(selection, "FEW", few)
        trainer = build_trainer(toy_cfg(tmp_path, "TEST.FINAL_MODEL", "best_val"))
        trainer.dm.dataset._val = trainer.dm.dataset.test if same else squares("other", 4)
        trainer.train()
        assert ("best_val selects on the test set" in capsys.readouterr().out) == same

    def test_splits(self, tmp_path, capsys):
        trainer = build_trainer(toy_cfg(tmp_path))
        trainer.test("val")
        trainer.val_loader = None
        trainer.test("val")
        assert re.findall(r"on the \*(\w+)\*", capsys.readouterr().out) == ["val", "test"]
        with pytest.raises(ValueError, match='"train"'):
            trainer.test("train")


class TestFailures:
    def test_a_loss_that_is_not_finite_names_step_rate_and_checkpoint(self, tmp_path, monkeypatch):
        trainer = build_trainer(toy_cfg(tmp_path))
        step = Linear.forward_backward

        def forward_backward(self, batch):
            if (self.epoch, self.batch_idx) == (2, 1):
                self.model[3].weight.data.fill_(float("nan"))
            return step(self, batch)

        monkeypatch.setattr(Linear, "forward_backward", forward_backward)
        with pytest.raises(FloatingPointError) as caught:
            trainer.train()
        message = str(caught.value)
        assert message.startswith(
            "Loss is infinite or NaN! epoch [3/4] batch [2/3], lr 8.5355e-02; last good checkpoint: "
        )
        assert f"{tmp_path}/linear/model-last.pth.tar" in message
        good = torch.load(tmp_path / "linear" / "model-last.pth.tar", weights_only=True)
        assert good["epoch"] == 2 and good["state_dict"]["3.weight"].isfinite().all()

    def test_an_average_that_is_not_finite_is_noticed_too(self, tmp_path, monkeypatch):
        """The way it shows on a GPU, where no step waits for its loss: when a line is due, or the epoch is over."""
        for frequency, bad in ((2, 1), (2, 2), (2, 3), (3, 2)):
            trainer = build_trainer(toy_cfg(tmp_path, "TRAIN.PRINT_FREQ", frequency))
            losses = torch.tensor([0.0 if batch + 1 < bad else float("inf") for batch in range(3)])
            monkeypatch.setattr(Linear, "forward_backward", lambda self, _, x=losses: {"loss": x[self.batch_idx]})
            with pytest.raises(FloatingPointError, match=rf"epoch \[1/4\] batch \[{bad}/3\].*none yet"):
                trainer.train()

    def test_a_full_disk_keeps_the_previous_checkpoint(self, tmp_path, monkeypatch):
        trainer = build_trainer(toy_cfg(tmp_path))
        sync, calls = os.fsync, []

        def fsync(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) > 2:  # config.yaml and the first epoch's state fit
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(descriptor)

        monkeypatch.setattr(tools.os, "fsync", fsync)
        with pytest.raises(OSError, match="disk is full; the previous file is unchanged"):
            trainer.train()
        assert os.listdir(tmp_path / "linear") == ["model-last.pth.tar"]
        assert torch.load(tmp_path / "linear" / "model-last.pth.tar", weights_only=True)["epoch"] == 1

    def test_checkpoints_of_other_models_or_none(self, tmp_path):
        trainer = trained(tmp_path, "OPTIM.MAX_EPOCH", 1)
        trainer._models["linear"] = nn.Linear(2, 2)
        with pytest.raises(ValueError, match=r'model.pth.tar-1" is not a checkpoint that fits "linear"'):
            trainer.load_model(str(tmp_path), epoch=1)
        with pytest.raises(FileNotFoundError, match=r"not found in .*linear of epoch 9.*there is .*model.pth.tar-1"):
            trainer.load_model(str(tmp_path), epoch=9)
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            trainer.load_model(str(tmp_path / "absent"))

    def test_no_directory_skips_loading(self, tmp_path, capsys):
        build_trainer(toy_cfg(tmp_path)).load_model("")
        assert "load_model() is skipped" in capsys.readouterr().out

    def test_unreadable_images_are_counted(self, tmp_path, capsys, monkeypatch):
        trainer = build_trainer(toy_cfg(tmp_path, "DATALOADER.SKIP_BROKEN", True))
        wrapper = type(trainer.test_loader.dataset)
        load = wrapper._load
        monkeypatch.setattr(wrapper, "_load", lambda self, i: None if i < 6 else load(self, i))
        trainer.test()
        assert "Unreadable images left out: 6" in capsys.readouterr().out
        assert metrics_of(tmp_path)["results"]["test"]["total"] == 6


class TestTrainerBase:
    def test_registering(self):
        trainer = TrainerBase()
        first, second = nn.Linear(1, 1), nn.Linear(1, 1)
        trainer.register_model("a", first, torch.optim.SGD(first.parameters(), lr=1.0))
        trainer.register_model("b", second)
        assert trainer.get_model_names() == ["a", "b"] and trainer.get_model_names("b") == ["b"]
        with pytest.raises(ValueError, match='"a" is registered already'):
            trainer.register_model("a", first)
        with pytest.raises(ValueError, match=r"\['c'\]; registered: \['a', 'b'\]"):
            trainer.get_model_names("c")
        with pytest.raises(AttributeError, match="super"):
            TrainerBase.__new__(TrainerBase).register_model("a", first)

    def test_modes_and_updates_reach_the_named_models(self):
        trainer = TrainerBase()
        model = nn.Linear(1, 1, bias=False)
        trainer.register_model("a", model, torch.optim.SGD(model.parameters(), lr=0.5))
        trainer.register_model("b", nn.Linear(1, 1))
        trainer.set_model_mode("test", "a")
        assert not model.training and trainer._models["b"].training
        with pytest.raises(KeyError, match="evaluate"):
            trainer.set_model_mode("evaluate")
        before = model.weight.item()
        for _ in range(2):  # gradients do not accumulate
            trainer.model_backward_and_update(model(torch.ones(1, 1)).sum())
        trainer.update_lr()
        assert model.weight.item() == pytest.approx(before - 1.0)
        with pytest.raises(FloatingPointError, match="infinite or NaN"):
            trainer.model_backward(model.weight.sum() / 0)

    def test_an_optimiser_may_come_later(self, tmp_path):
        """Until then a model does not learn; afterwards it does, at its rate, and its checkpoint has the optimiser."""
        trainer = TrainerBase()
        model = nn.Linear(1, 1, bias=False)
        trainer.register_model("a", model)
        before = model.weight.item()
        trainer.model_backward_and_update(model(torch.ones(1, 1)).sum())
        assert model.weight.item() == before
        optim = torch.optim.SGD(model.parameters(), lr=0.5)
        trainer.set_optimizer("a", optim, EpochScheduler(optim, lambda base, epoch: base / (1 + epoch)))
        trainer.model_backward_and_update(model(torch.ones(1, 1)).sum())
        assert model.weight.item() == pytest.approx(before - 0.5)
        trainer.update_lr()
        assert optim.param_groups[0]["lr"] == 0.25
        trainer.save_model(0, str(tmp_path))
        saved = torch.load(tmp_path / "a" / "model.pth.tar-1", weights_only=True)
        assert saved["optimizer"]["param_groups"][0]["lr"] == 0.25 and saved["scheduler"]["last_epoch"] == 1

    def test_build_model_must_be_defined(self, tmp_path):
        with pytest.raises(NotImplementedError, match="must define build_model"):
            SimpleTrainer(toy_cfg(tmp_path))
