"""One's own photos: from class folders to a trained prompt to predictions, by the commands of docs/datasets.md."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import normalize

import clip
import datasets
import predict
import train
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import read_image
from datasets.embedded import EMBEDDED
from trainers import extend_cfg

CLASSES = ("zero", "one", "seven")
TINY = "configs/trainers/CoOp/tiny.yaml"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scanned digits in class folders, and some more in a folder of new ones."""
    cfg = get_cfg_default()
    extend_cfg(cfg)
    folder = tmp_path_factory.mktemp("photos")
    dataset = next(cls for cls in EMBEDDED if cls.__name__ == "TinyDigits")(cfg)
    counts: dict[str, int] = {}
    for item in dataset.test:
        number = counts[item.classname] = counts.get(item.classname, 0) + 1
        if item.classname not in CLASSES or number > 12:
            continue
        path = folder / ("new" if number > 10 else "mine") / item.classname / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        item.load().save(path)
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    argv = ["--trainer", "CoOp", "--config-file", TINY, "--seed", "1", "--output-dir", str(out)]
    own = ["DATASET.NAME", "Folder", "DATASET.PATH", str(photos / "mine"), "DATASET.NUM_SHOTS", "4"]
    assert train.main([*argv, *own, "OPTIM.MAX_EPOCH", "2"]) == 0
    return out


def test_training_shows_a_zero_shot_number_first(run: Path) -> None:
    log = (run / "log.txt").read_text()
    assert log.index("Zero-shot CLIP with") < log.index("epoch [1/2]") < log.index("=> result")
    assert "(chance: 33.3%)" in log


def test_predictions_in_every_format(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--model-dir", str(run), "--images", str(photos / "new"), "--classes", *CLASSES, "--topk", "2"]
    assert predict.main([*argv, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2 * len(CLASSES)
    assert all(set(row["classes"]) < set(CLASSES) and sum(row["probabilities"]) <= 1 + 1e-6 for row in rows)
    assert predict.main([*argv, "--format", "csv"]) == 0
    header, *lines = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == ["image", "class 1", "probability 1", "class 2", "probability 2"]
    assert [line[1] for line in lines] == [row["classes"][0] for row in rows]
    assert predict.main(argv) == 0
    assert rows[0]["image"] in capsys.readouterr().out


def test_exported_classifier_gives_the_same_logits(run: Path, photos: Path, tmp_path: Path) -> None:
    """With nothing of ours but the image encoder, as another CLIP library would; other class names than trained."""
    names, path = ["two", "seven", "nine"], tmp_path / "classifier.safetensors"
    assert predict.main(["--model-dir", str(run), "--classes", *names, "--export", str(path)]) == 0
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["classnames"]) == names
        text, scale = file.get_tensor("text_features"), file.get_tensor("logit_scale")
    model, preprocess = clip.load("tiny", "cpu")
    image = next((photos / "new").rglob("*.png"))
    with torch.no_grad():
        features = normalize(model.encode_image(preprocess(read_image(str(image)))[None]), dim=-1)
    args = predict.parse_args(["--model-dir", str(run), "--classes", *names])
    predictor = predict.load_predictor(predict.load_config(args), args, names)
    row = next(predict.predict(predictor, [image], 3, 1))
    ours = dict(zip(row["classes"], row["probabilities"]))
    theirs = (scale * features @ text.t()).softmax(dim=-1)[0]
    assert [ours[name] for name in names] == pytest.approx(theirs.tolist(), abs=1e-4)


def test_zero_shot_needs_no_run(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(["--images", str(photos / "new"), "--classes", *CLASSES, "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2 * len(CLASSES)


def test_zero_shot_predictions_use_the_template_of_the_runs_data_set(tmp_path: Path) -> None:
    """Whichever modules were imported before; a data set that is not ours has the general one."""
    assert predict.template_of("EuroSAT") == datasets.EuroSAT.template != predict.template_of("ElsewhereSet")
    argv = ["--trainer", "ZeroshotCLIP", "--seed", "1", "--output-dir", str(tmp_path), "MODEL.BACKBONE.NAME", "tiny"]
    assert (
        train.main([*argv, "DATASET.NAME", "TinyDigits", "INPUT.SIZE", "(32, 32)", "DATALOADER.NUM_WORKERS", "0"]) == 0
    )
    args = predict.parse_args(["--model-dir", str(tmp_path), "--classes", "zero", "one"])
    predictor = predict.load_predictor(predict.load_config(args), args, args.classes)
    assert predictor.model.templates == [DATASET_REGISTRY.get("TinyDigits").template]
    bare = type(predictor).without_data(predictor.cfg, args.classes)  # knows no data set, registered or not
    assert bare.model.templates == ["a photo of a {}."]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--images", "x.jpg"], "Give class names"),
        (["--classes", "zero"], "Nothing to do"),
        (["--classes", "zero", "--images", "nowhere.png"], "nowhere.png"),
        (["--classes", "zero", "one", "Zero", "--images", "x.jpg"], "'zero' and 'Zero' are the same"),
        (["--classes", "zero", " ", "--images", "x.jpg"], "the class name ' ' is empty"),
        (["--classes", "zero", "--images", "x", "--opts", "MODEL.TEXT_MEMORY_GB", "0"], "MODEL.TEXT_MEMORY_GB"),
        (["--classes", "zero", "--images", "x", "--model-dir", "configs"], "not the folder of a run"),
        (["--classes", "zero", "--images", "x", "--topk", "0"], "--topk and --batch-size must be at least 1"),
        (["--classes", "zebra", "--export", "never.safetensors"], "zebra"),
    ],
)
def test_bad_input_is_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(argv) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last
