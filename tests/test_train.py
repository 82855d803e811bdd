"""``train.py`` as a user calls it: what a run leaves behind, what it says of mistakes, how it goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

import configs
import predict
import train
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import lock, sole_user_of
from dassl.utils.logger import Logger
from tools.command import parse_args, setup_cfg

from .trainers.world import CLASSNAMES, METHODS, ZERO_SHOT, method_class, options, save_clip

CONFIGS = configs.ROOT


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A method yaml for the small CLIP."""
    folder = tmp_path_factory.mktemp("settings")
    content = {
        "MODEL": {"BACKBONE": {"PATH": save_clip(folder)}},
        "INPUT": {"SIZE": "(32, 32)"},
        "DATASET": {"ALL_AS_UNLABELED": True},
        "DATALOADER": {"NUM_WORKERS": 0, "TRAIN_X": {"BATCH_SIZE": 8}},
        "OPTIM": {"NAME": "sgd", "LR": 0.02, "LR_SCHEDULER": "cosine", "MAX_EPOCH": 2},
        "TRAINER": {
            method_class(name).section().removeprefix("TRAINER."): {"PREC": "fp32", **chosen}
            for name, chosen in METHODS.items()
        },
        "USE_CUDA": False,
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture
def command(settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Command:
    """``command(*words)``: exit status and output of ``train.py`` on the swatches with the small CLIP."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "collect_env_info", lambda: "a machine")  # it takes seconds

    def run(trainer: str, *words: object, data: tuple[str, ...] = ("DATASET.NAME", "Swatches")) -> Outcome:
        console = sys.stdout
        flags = [str(word) for word in words]
        opts = next((i for i, word in enumerate(flags) if "." in word and word.split(".")[0].isupper()), len(flags))
        argv = ["--trainer", trainer, "--config-file", settings, "--output-dir", "run"]
        argv += [*flags[:opts], *(data if data[0].isupper() else ())]
        try:
            status = train.main([*(() if data[0].isupper() else data), *argv, *flags[opts:]])
        finally:
            if isinstance(sys.stdout, Logger):
                sys.stdout.close()
            sys.stdout = console
        return Outcome(status, *capsys.readouterr())

    return run


def metrics(folder: str = "run") -> dict:
    return json.loads(Path(folder, "metrics.json").read_text())


def weights(folder: str, name: str = "prompt_learner/model.pth.tar-2") -> dict[str, torch.Tensor]:
    return torch.load(Path(folder, name), weights_only=True)["state_dict"]


def test_a_run_and_what_it_leaves_behind(command: Command) -> None:
    outcome = command("CoOp", "--seed", 3)
    assert outcome.status == 0 and not outcome.err
    log = Path("run/log.txt").read_text()
    for line in ("** Arguments **", "** Config **", "epoch [2/2] batch [3/3]", "=> result", "Finished training"):
        assert line in log and line in outcome.out
    found = metrics()
    assert found["trainer"] == "CoOp" and found["dataset"] == "Swatches"
    assert (found["seed"], found["epoch"], found["max_epoch"], found["status"]) == (3, 2, 2, "finished")
    assert (found["num_classes"], found["num_train"], found["num_val"], found["num_test"]) == (6, 24, 6, 12)
    assert found["classnames"] == CLASSNAMES
    assert found["trainable_parameters"] == 4 * 128
    result = found["results"]["test"]
    assert result["accuracy"] == pytest.approx(100 * result["correct"] / 12)
    assert [row["classname"] for row in result["per_class"]] == CLASSNAMES
    assert [epoch["epoch"] for epoch in found["history"]] == [1, 2]
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["TRAINER"]["NAME"] == "CoOp" and config["SEED"] == 3 and config["OPTIM"]["LR"] == 0.02
    assert list(Path("run/tensorboard").iterdir())
    assert weights("run").keys() == {"ctx"}
    assert not [path for path in Path("run").rglob("*") if path.name.endswith(".tmp")]


def test_a_log_opens_with_what_was_chosen(command: Command) -> None:
    """Not with every option: those are in config.yaml."""
    command("CoOp", "--seed", 3, "--no-train", "OPTIM.MAX_EPOCH", 1)
    log = Path("run/log.txt").read_text()
    head = log[: log.index("** System info **")].splitlines()
    for line in ("seed: 3", "OPTIM.LR: 0.02", "OPTIM.MAX_EPOCH: 1", "TRAINER.COOP.CSC: False", "USE_CUDA: False"):
        assert line in head
    shown = [line.partition(":")[0] for line in head]
    assert not {"OPTIM.ADAM_BETA1", "TRAINER.RPP.PREC", "TRAINER.COCOOP.PREC", "DATASET.STL10_FOLD"} & {*shown}
    assert "INPUT.COLORJITTER_B" not in log


def test_evaluation_of_a_run(command: Command) -> None:
    """The same accuracy as at the end of training; from another folder, on other classes too."""
    command("MaPLe", "--seed", 1)
    trained = metrics()["results"]["test"]["accuracy"]
    assert command("MaPLe", "--eval-only", "--model-dir", "run", "--load-epoch", 2, "--output-dir", "again").status == 0
    again = metrics("again")
    assert again["results"]["test"]["accuracy"] == trained
    assert again["eval_only"] and again["epoch"] == 2 and not again["history"]
    new = ("--output-dir", "new", "DATASET.SUBSAMPLE_CLASSES", "new")
    assert command("MaPLe", "--eval-only", "--model-dir", "run", *new).status == 0
    assert metrics("new")["num_classes"] == 3


@pytest.mark.parametrize("method", [*METHODS, *ZERO_SHOT])
def test_every_method_runs(method: str, command: Command) -> None:
    assert command(method, "--seed", 1, "OPTIM.MAX_EPOCH", 1, "DATASET.NUM_SHOTS", 1).status == 0
    assert metrics()["results"]["test"]["total"] == 12


@pytest.fixture
def with_tf32() -> Iterator[None]:
    """TF32 is on, as another program may have left it."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize("program", ["train", "predict"])
def test_fp32_is_not_tf32(program: str, with_tf32: None, command: Command, tmp_path: Path) -> None:
    if program == "train":
        assert command("CoOp", "--no-train").status == 0
    else:
        assert predict.main(["--classes", "cat", "dog", "--export", str(tmp_path / "classifier.safetensors")]) == 0
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_zero_is_a_seed(command: Command) -> None:
    """It gives the same weights twice, and other ones than seed 1."""
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert f"Setting fixed seed: {seed}" in command("CoOp", "--seed", seed, "--output-dir", folder).out
    assert metrics("a")["seed"] == 0
    first, again, other = (weights(folder)["ctx"] for folder in "abc")
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_without_a_seed_the_drawn_one_is_recorded(command: Command) -> None:
    command("CoOp")
    seed = metrics()["seed"]
    assert seed >= 0
    command("CoOp", "--seed", seed, "--output-dir", "again")
    assert torch.equal(weights("run")["ctx"], weights("again")["ctx"])


@pytest.mark.parametrize("method", ["CoOp", "RPP"])
def test_interrupted_run_goes_on_exactly(method: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of epoch 2 and called again with the same words."""
    name = method_class(method).folder + "/model.pth.tar-2"
    command(method, "--seed", 5, "--output-dir", "whole")
    step = TRAINER_REGISTRY.get(method).forward_backward

    def interrupted(trainer: object, batch: dict) -> dict:
        if trainer.epoch == 1 and trainer.batch_idx == 1:
            raise KeyboardInterrupt
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(TRAINER_REGISTRY.get(method), "forward_backward", interrupted)
        assert command(method, "--seed", 5).status == 130
    assert not Path("run", name).exists()
    outcome = command(method, "--seed", 5)
    assert "Found checkpoint at run (will resume training)" in outcome.out
    resumed, whole = weights("run", name), weights("whole", name)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    assert [epoch["loss"] for epoch in metrics("run")["history"]] == [
        epoch["loss"] for epoch in metrics("whole")["history"]
    ]
    assert metrics("run")["results"] == metrics("whole")["results"]


MISTAKES = {
    "trainer": (("MaPel",), "MaPel", "MaPLe"),
    "data set": (("CoOp", "DATASET.NAME", "Swatch"), "Swatch", "Swatches"),
    "backbone": (("CoOp", "--backbone", "ViT-B/61", "MODEL.BACKBONE.PATH", ""), "ViT-B/61", "ViT-B/16"),
    "weights file": (("CoOp", "MODEL.BACKBONE.PATH", "weights.pt"), "weights.pt"),
    "key": (("CoOp", "TRAINER.COOP.N_CXT", 4), "TRAINER.COOP.N_CXT", "TRAINER.COOP.N_CTX"),
    "type": (("CoOp", "OPTIM.LR", "fast"), "OPTIM.LR"),
    "pairs": (("CoOp", "OPTIM.LR"), "pairs KEY VALUE", "OPTIM.LR"),
    "yaml": (("CoOp", "--config-file", "missing.yaml"), "missing.yaml"),
    "image size": (("CoOp", "INPUT.SIZE", "(64, 64)"), "INPUT.SIZE is (64, 64)", "(32, 32)"),
    "depth": (("MaPLe", "TRAINER.MAPLE.PROMPT_DEPTH", 9), "prompt depth 9 exceeds the 3 layers"),
    "phrase": (("IVLP", "TRAINER.IVLP.CTX_INIT", "photo"), "CTX_INIT 'photo' has 1 tokens, fewer than the 2"),
    "position": (("CoOp", "TRAINER.COOP.CLASS_TOKEN_POSITION", "back"), "'back'", "end, middle, front"),
    "precision": (("RPP", "TRAINER.RPP.PREC", "fp8"), "TRAINER.RPP.PREC", "fp32, fp16, bf16, amp, amp_bf16", "'fp8'"),
    "candidates": (("POMP", "TRAINER.POMP.UPDATE_CLASS_NUM", 8), "UPDATE_CLASS_NUM", "from 2 to 7", "is 8"),
    "loss": (("CoOp", "OPTIM.LR", 1e30), "infinite or NaN", "lr 1.0000e+30", "last good checkpoint", "OPTIM.LR"),
    "run": (("CoOp", "--eval-only", "--model-dir", "nowhere"), "nowhere", "--model-dir"),
    "epoch": (("CoOp", "--eval-only", "--model-dir", ".", "--load-epoch", 7), "model.pth.tar-7", "--load-epoch"),
    "prompts": (("CoOp", "TRAINER.INIT_PROMPTS", "old.pth"), "old.pth"),
    "cache": (("CoOp", "DATALOADER.CACHE_FEATURES", True), "random_flip", "--transforms normalize"),
    "cache of vision": (
        ("VPT", "--transforms", "normalize", "--seed", 1, "DATALOADER.CACHE_FEATURES", True),
        "puts prompts into it",
    ),
    "final model": (("CoOp", "TEST.FINAL_MODEL", "best"), '"best"', "best_val"),
    "split": (("CoOp", "TEST.SPLIT", "tset"), "TEST.SPLIT", '"tset"', '"val"'),
    "no epochs": (("CoOp", "OPTIM.MAX_EPOCH", 0), "OPTIM.MAX_EPOCH must be at least 1, but is 0"),
    "negative epochs": (("CoOp", "OPTIM.MAX_EPOCH", -1), "OPTIM.MAX_EPOCH", "-1"),
    "no memory": (
        ("CoOp", "MODEL.TEXT_MEMORY_GB", 0),
        "MODEL.TEXT_MEMORY_GB must be a number larger than 0, but is 0.0",
    ),
    "negative memory": (("RPP", "MODEL.TEXT_MEMORY_GB", -1), "MODEL.TEXT_MEMORY_GB", "-1.0"),
    "print frequency": (("CoOp", "TRAIN.PRINT_FREQ", 0), "TRAIN.PRINT_FREQ must be at least 1"),
    "batch size": (("CoOp", "DATALOADER.TRAIN_X.BATCH_SIZE", 0), "DATALOADER.TRAIN_X.BATCH_SIZE", "at least 1"),
    "nothing to evaluate": (("CoOp", "--eval-only"), "--eval-only of CoOp", "--model-dir", "TRAINER.INIT_PROMPTS"),
    "folder without --eval-only": (("CoOp", "--model-dir", "old"), "--model-dir is for evaluation", "--eval-only"),
    "epoch without --eval-only": (("CoOp", "--load-epoch", 2), "--load-epoch is for evaluation", "--eval-only"),
    "epoch of no folder": (("CoOp", "--eval-only", "--load-epoch", 2), "--load-epoch needs --model-dir"),
    "resume": (("CoOp", "--resume", "gone"), 'RESUME: there is no folder "gone"'),
    "resume of nothing": (("CoOp", "--resume", "."), 'RESUME: the folder "." holds no checkpoint'),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_one_line(mistake: str, command: Command) -> None:
    """Exit status 2, the reason and the way out on stderr, no traceback, no results."""
    words, *expected = MISTAKES[mistake]
    outcome = command(*words)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    for part in expected:
        assert part in outcome.err
    assert not Path("run/metrics.json").exists() and not [*Path("run").rglob("*.tar-*")]


def test_missing_data(command: Command) -> None:
    data = ("--dataset-config-file", str(CONFIGS / "datasets" / "dtd.yaml"))
    outcome = command("CoOp", "--root", "nowhere", data=data)
    assert outcome.status == 2
    assert "nowhere" in outcome.err and "Traceback" not in outcome.err


def test_yaml_with_an_unknown_key(command: Command) -> None:
    Path("typo.yaml").write_text("OPTIM:\n  LEARNING_RATE: 0.1\n")
    outcome = command("CoOp", "--config-file", "typo.yaml")
    assert outcome.status == 2
    assert 'OPTIM.LEARNING_RATE in "typo.yaml"' in outcome.err


def test_another_configuration_is_not_resumed(command: Command) -> None:
    command("CoOp", "--seed", 1)
    before = weights("run")["ctx"]
    outcome = command("CoOp", "--seed", 1, "OPTIM.LR", 0.5)
    assert outcome.status == 2
    assert "OPTIM.LR: 0.02 there, 0.5 now" in outcome.err
    assert torch.equal(weights("run")["ctx"], before)


def contents(folder: str = "run") -> dict[str, bytes]:
    """All files but TensorBoard's, which the thread of an interrupted run in this process may still be writing."""
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.parent.name != "tensorboard"]
    return {str(path): path.read_bytes() for path in files}


def interrupted_after_an_epoch(command: Command, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    seed_epoch = TRAINER_REGISTRY.get("CoOp").seed_epoch

    def stop(trainer: object) -> None:
        seed_epoch(trainer)
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TRAINER_REGISTRY.get("CoOp"), "seed_epoch", stop)
        assert command("CoOp", *words).status == 130


OTHER_RUNS = {
    "seed": (("CoOp", "--seed", 2), "SEED: 1 there, 2 now"),
    "settings": (("CoOp", "--seed", 1, "OPTIM.LR", 0.5), "OPTIM.LR: 0.02 there, 0.5 now"),
    "method": (("MaPLe", "--seed", 1), "TRAINER.NAME: CoOp there, MaPLe now"),
    "zero-shot": (("ZeroshotCLIP", "--seed", 1), "TRAINER.NAME: CoOp there, ZeroshotCLIP now"),
    "evaluation": (
        ("CoOp", "--seed", 1, "--eval-only", "--model-dir", "run"),
        "a training run there, an evaluation now",
    ),
}


@pytest.mark.parametrize("other", OTHER_RUNS)
@pytest.mark.parametrize("first", ["finished", "unfinished"])
def test_a_folder_is_one_runs(first: str, other: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is refused, with what differs, and leaves the first as it was."""
    if first == "finished":
        command("CoOp", "--seed", 1)
    else:
        interrupted_after_an_epoch(command, monkeypatch, "--seed", 1)
    before = contents()
    words, difference = OTHER_RUNS[other]
    outcome = command(*words)
    assert outcome.status == 2 and difference in outcome.err and '"run" holds a run' in outcome.err
    assert contents() == before
    assert command("CoOp", "--seed", 1).status == 0
    assert (metrics()["epoch"], metrics()["eval_only"], len(metrics()["history"])) == (2, False, 2)


@pytest.mark.parametrize("content", ["OPTIM: [\n", "just words\n"])
def test_a_record_that_cannot_be_read(content: str, command: Command) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text(content)
    outcome = command("CoOp", "--seed", 1)
    assert outcome.status == 2 and '"run/config.yaml" ' in outcome.err
    assert outcome.err.count("\n") == 1 and Path("run/config.yaml").read_text() == content


def test_a_result_of_other_images_is_not_overwritten(command: Command) -> None:
    """What can be changed while a run goes on, but not when its result stands."""
    command("CoOp", "--seed", 1)
    before = contents()
    for words in (("TEST.SPLIT", "val"), ("TEST.NO_TEST", True)):
        outcome = command("CoOp", "--seed", 1, *words)
        assert outcome.status == 2 and f"{words[0]}: " in outcome.err
    assert contents() == before
    assert command("CoOp", "--seed", 1, "TRAIN.PRINT_FREQ", 1).status == 0


def test_a_folder_is_one_evaluations(command: Command) -> None:
    """The same one again is fine."""
    command("CoOp", "--seed", 1, "--output-dir", "a", "TRAIN.CHECKPOINT_FREQ", 1)
    command("CoOp", "--seed", 1, "--output-dir", "b")
    words = ("CoOp", "--seed", 1, "--eval-only", "--output-dir", "test", "--model-dir")
    assert (
        command(*words, "a").status == command(*words, "./a/").status == command(*words, "a", "--load-epoch", 2).status
    )
    before = contents("test")
    for changed, difference in (
        ((*words, "b"), "evaluated prompts: a there, b now"),
        ((*words, "a", "--load-epoch", 1), "evaluated epoch: 2 there, 1 now"),
        ((*words, "a", "TEST.SPLIT", "val"), "TEST.SPLIT: test there, val now"),
        (("CoOp", "--seed", 1, "--output-dir", "test"), "an evaluation there, a training run now"),
    ):
        outcome = command(*changed)
        assert outcome.status == 2 and difference in outcome.err
    assert contents("test") == before
    zero = ("ZeroshotCLIP", "--seed", 1, "--output-dir", "zero")
    assert [command(*zero, *more).status for more in ((), ("--eval-only",), ("--eval-only", "--model-dir", "a"))] == [
        0
    ] * 3


def test_prompts_to_start_from_are_a_model(command: Command) -> None:
    command("CoOp", "--seed", 1)
    words = ("CoOp", "--seed", 1, "--eval-only", "--output-dir", "again", "TRAINER.INIT_PROMPTS", "run")
    assert command(*words).status == 0
    assert metrics("again")["results"] == metrics("run")["results"]


def test_one_process_a_folder(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOCK_SECONDS", 0)
    with sole_user_of("run"):
        outcome = command("CoOp", "--seed", 1)
    assert outcome.status == 2 and '"run" is in use' in outcome.err and outcome.err.count("\n") == 1
    assert not [*Path("run").iterdir()]
    assert command("CoOp", "--seed", 1).status == 0


def test_copies_of_a_run_are_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = command("CoOp", "--seed", 1)
    assert outcome.status == 2 and "WORLD_SIZE is 2" in outcome.err and not Path("run").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert command("CoOp", "--seed", 1, "OPTIM.MAX_EPOCH", 1).status == 0


def test_traceback_on_demand(command: Command) -> None:
    with pytest.raises(ValueError, match="exceeds the 3 layers"):
        command("MaPLe", "--traceback", "TRAINER.MAPLE.PROMPT_DEPTH", 9)


def test_no_train_builds_and_stops(command: Command) -> None:
    assert command("RPP", "--no-train").status == 0
    assert [path.name for path in Path("run").iterdir()] == ["log.txt"]


# Settings


def test_order_of_the_settings(tmp_path: Path) -> None:
    """Data set yaml, method yaml, arguments, pairs: later ones win."""
    for name, text in {
        "data": "DATASET:\n  NAME: Swatches\n  NUM_SHOTS: 1\nSEED: 1\nOPTIM:\n  LR: 0.1\nOUTPUT_DIR: data\n",
        "method": "DATASET:\n  NUM_SHOTS: 2\nSEED: 2\nOUTPUT_DIR: method\n",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    files = ["--dataset-config-file", str(tmp_path / "data.yaml"), "--config-file", str(tmp_path / "method.yaml")]
    words = ["--trainer", "CoOp", "--seed", "3", "--output-dir", "argument", "OUTPUT_DIR", "pair"]
    cfg = setup_cfg(parse_args([*files, *words]))
    found = (cfg.DATASET.NAME, cfg.OPTIM.LR, cfg.DATASET.NUM_SHOTS, cfg.SEED, cfg.OUTPUT_DIR)
    assert found == ("Swatches", 0.1, 2, 3, "pair")


def test_all_arguments_reach_the_config() -> None:
    words = "--trainer CoOp --root data --resume old --source-domains a b --target-domains c --transforms normalize"
    cfg = setup_cfg(parse_args([*words.split(), "--backbone", "RN50", "--head", "none"]))
    assert (cfg.TRAINER.NAME, cfg.DATASET.ROOT, cfg.RESUME) == ("CoOp", "data", "old")
    assert (cfg.DATASET.SOURCE_DOMAINS, cfg.DATASET.TARGET_DOMAINS) == (("a", "b"), ("c",))
    assert (cfg.INPUT.TRANSFORMS, cfg.MODEL.BACKBONE.NAME, cfg.MODEL.HEAD.NAME) == (("normalize",), "RN50", "none")


@pytest.mark.parametrize("flag", ["source-domains", "target-domains", "transforms"])
def test_a_flag_of_several_words_leaves_the_pairs(flag: str, capsys: pytest.CaptureFixture) -> None:
    args = parse_args([f"--{flag}", "normalize", "Real", "OPTIM.LR", "0.5", "SEED", "3"])
    assert (getattr(args, flag.replace("-", "_")), args.opts) == (
        ["normalize", "Real"],
        ["OPTIM.LR", "0.5", "SEED", "3"],
    )
    args = parse_args([f"--{flag}", "a", "SEED", "3", "--trainer", "CoOp", "OPTIM.LR", "0.5"])
    assert (args.trainer, args.opts) == ("CoOp", ["SEED", "3", "OPTIM.LR", "0.5"])
    with pytest.raises(SystemExit, match="2"):
        parse_args([f"--{flag}", "OPTIM.LR", "0.5"])
    assert f"--{flag}: expected at least one name before OPTIM.LR" in capsys.readouterr().err


@pytest.mark.parametrize("method", [*METHODS, *ZERO_SHOT])
def test_a_method_alone_takes_the_embedded_world(method: str, capsys: pytest.CaptureFixture) -> None:
    cfg = setup_cfg(parse_args(["--trainer", method]))
    found = cfg.DATASET.NAME, cfg.MODEL.BACKBONE.NAME, cfg.TRAINER.NAME
    assert found == ("TinyShapes", "tiny", method)
    said = capsys.readouterr().out
    assert "configs/datasets/tiny_shapes.yaml" in said and f"configs/trainers/{method}/tiny.yaml" in said


def test_real_data_needs_a_settings_file() -> None:
    words = ["--trainer", "MaPLe", "--dataset-config-file", str(CONFIGS / "datasets" / "dtd.yaml")]
    with pytest.raises(ValueError, match=r"Give --config-file for MaPLe on DescribableTextures.*vit_b16_c2_ep5"):
        setup_cfg(parse_args(words))


def test_method_options_by_pairs() -> None:
    words = [str(word) for word in options("RPP", {"QKV": "kv", "TEACHER.TEMPLATES": "ensemble"})]
    cfg = setup_cfg(parse_args(["--trainer", "RPP", *words]))
    assert (cfg.TRAINER.RPP.QKV, cfg.TRAINER.RPP.TEACHER.TEMPLATES) == ("kv", "ensemble")
