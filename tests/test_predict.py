"""One's own photos: from class folders to a trained prompt to predictions, by the commands of docs/datasets.md."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import normalize

import clip
import configs
import predict
import train
from clip.clip import PIXEL_MEAN, PIXEL_STD
from dassl.config import get_cfg_default, merge_from_file, merge_from_list
from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import read_image
from datasets.embedded import EMBEDDED
from trainers import PromptedCLIP, extend_cfg, load_classifier
from trainers.load import finish

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
    row = next(predict.predict(load_classifier(run, names), [image], 3, 1))
    ours = dict(zip(row["classes"], row["probabilities"]))
    theirs = (scale * features @ text.t()).softmax(dim=-1)[0]
    assert [ours[name] for name in names] == pytest.approx(theirs.tolist(), abs=1e-4)


def test_a_run_is_loaded_by_its_folder_or_by_one_of_its_checkpoints(run: Path, photos: Path) -> None:
    """Of another epoch, too; its own class names if no others are given; pictures as paths, images and tensors."""
    path = next((photos / "new").rglob("*.png"))
    whole, file = load_classifier(run), load_classifier(run / "prompt_learner" / "model.pth.tar-2")
    assert whole.classnames == sorted(CLASSES) == list(whole.trained_on) and whole.is_trained_on_these
    assert torch.equal(whole.text_features, file.text_features)
    image = read_image(str(path))
    (by_path,), (by_image,), (by_tensor,) = (
        whole.predict(pictures, topk=2) for pictures in (path, image, [whole.transform(image)])
    )
    assert by_path == by_image == by_tensor and len(by_path) == 2
    other = load_classifier(run, ["red circle", "blue star"])
    assert not other.is_trained_on_these and other.text_features.shape[0] == 2


def untrained(method: str, *opts: object) -> PromptedCLIP:
    """A classifier of the tiny CLIP with the method's tiny settings, as a run would leave it."""
    cfg = get_cfg_default()
    extend_cfg(cfg)
    merge_from_file(cfg, f"configs/trainers/{method}/tiny.yaml")
    merge_from_list(cfg, ["TRAINER.NAME", method, *opts])
    return finish(TRAINER_REGISTRY.get(method).method, cfg, ["red circle", "blue star"], cfg.DATASET.TEMPLATE)


@pytest.mark.parametrize("method", ["VPT", "IVLP", "MaPLe", "RPP", "PromptSRC", "CoCoOp"])
def test_no_classifier_is_exported_that_would_need_the_methods_image_encoder(method: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{method}.* cannot be exported.*predict.py --images"):
        predict.export(untrained(method), str(tmp_path / "classifier.safetensors"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", configs.methods())
def test_an_exported_classifier_gives_its_methods_logits(method: str, tmp_path: Path) -> None:
    """Whatever the method: else it is refused."""
    classifier, path = untrained(method), tmp_path / "classifier.safetensors"
    try:
        predict.export(classifier, str(path))
    except ValueError as error:
        assert "cannot be exported" in str(error)
        return
    with safe_open(path, "pt") as file, torch.no_grad():
        image = torch.randn(3, 3, 32, 32)
        features = normalize(clip.load("tiny", "cpu")[0].encode_image(image), dim=-1)
        theirs = file.get_tensor("logit_scale") * features @ file.get_tensor("text_features").t()
        assert torch.allclose(theirs, classifier(image), atol=1e-3)


def test_an_exported_file_says_what_it_is(tmp_path: Path) -> None:
    def metadata(classifier: PromptedCLIP) -> dict[str, str]:
        predict.export(classifier, str(tmp_path / "classifier.safetensors"))
        with safe_open(tmp_path / "classifier.safetensors", "pt") as file:
            return file.metadata()

    found = metadata(untrained("CoOp", "TRAINER.COOP.N_CTX", 2, "TRAINER.COOP.CTX_INIT", ""))
    assert (found["method"], found["backbone"], found["image_size"]) == ("CoOp", "tiny", "32")
    assert (json.loads(found["mean"]), json.loads(found["std"])) == (list(PIXEL_MEAN), list(PIXEL_STD))
    assert json.loads(found["classnames"]) == ["red circle", "blue star"]
    assert json.loads(found["wording"]) == ["[v1] [v2] {}."]
    text_only = untrained("IVLP", "TRAINER.IVLP.PROMPT_DEPTH_VISION", 0, "TRAINER.IVLP.N_CTX_TEXT", 2)
    assert json.loads(metadata(text_only)["wording"]) == ["[v1] [v2] of a {}."], "no prompts in the image encoder"
    hand_written = untrained("ZeroshotCLIP", "DATASET.TEMPLATE", "a drawing of a {}.")
    assert json.loads(metadata(hand_written)["wording"]) == ["a drawing of a {}."]
    for method in ("TaskRes", "ZSLP", "CLAP"):
        own = untrained(method, f"TRAINER.{method.upper()}.TEMPLATES", "art of the {}.")
        assert json.loads(metadata(own)["wording"]) == ["art of the {}."]


def test_without_classes_those_of_the_training_are_taken(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--images", str(photos / "new"), "--format", "json"]
    assert predict.main([*argv, "--model-dir", str(run)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(set(row["classes"]) == set(CLASSES) for row in rows)
    folder = shutil.copytree(run, tmp_path / "copy")
    record = json.loads((folder / "metrics.json").read_text())
    mistakes = {
        "was evaluated with prompts of elsewhere": {**record, "eval_only": True, "model_dir": "elsewhere"},
        "does not record": {key: value for key, value in record.items() if key != "classnames"},
        "has no metrics.json": None,
    }
    for message, changed in mistakes.items():
        (folder / "metrics.json").unlink()
        if changed is not None:
            (folder / "metrics.json").write_text(json.dumps(changed))
        assert predict.main([*argv, "--model-dir", str(folder)]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in last and "--classes" in last and str(folder) in last


def test_a_broken_image_is_told_and_the_others_are_classified(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 where some images could not be read, 2 where none could."""
    good = sorted((photos / "new").rglob("*.png"))[:3]
    for number, path in enumerate(good):
        shutil.copy(path, tmp_path / f"{2 * number}.png")
    (tmp_path / "1.png").write_bytes(good[0].read_bytes()[:60])
    (tmp_path / "3.png").symlink_to("nowhere.png")
    argv = ["--images", str(tmp_path), "--classes", *CLASSES, "--format", "json", "--batch-size", "2"]
    assert predict.main(argv) == 1
    said = capsys.readouterr()
    assert [row["image"] for row in json.loads(said.out)] == [str(tmp_path / f"{i}.png") for i in (0, 2, 4)]
    assert f'Cannot read the image "{tmp_path / "1.png"}"' in said.err
    assert f'No image at "{tmp_path / "3.png"}"' in said.err
    for i in (0, 2, 4):
        (tmp_path / f"{i}.png").unlink()
    assert predict.main(argv) == 2
    said = capsys.readouterr()
    assert "none of the 2 images" in said.err.splitlines()[-1] and not said.out


def test_an_image_that_is_named_twice_is_shown_twice(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = str(next((photos / "new").rglob("*.png")))
    argv = ["--images", image, image, "--classes", *CLASSES, "--format", "json"]
    assert predict.main(argv) == 0
    assert [row["image"] for row in json.loads(capsys.readouterr().out)] == [image, image]
    assert predict.main([*argv, "--load-epoch", "2"]) == 2


@pytest.mark.parametrize("program", ["train", "predict"])
def test_words_that_the_model_does_not_know_are_told_before_an_image_is_read(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(8):
        path = tmp_path / "photos" / ("red okapi", "xylophones")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(i))
    never = lambda *_: pytest.fail("an image is read")  # noqa: E731
    monkeypatch.setattr(Datum, "load", never)
    monkeypatch.setattr(predict, "read_image", never)
    if program == "train":
        argv = ["--trainer", "CoOp", "--config-file", TINY, "--output-dir", str(tmp_path / "run")]
        own = ["DATASET.NAME", "Folder", "DATASET.PATH", str(tmp_path / "photos"), "DATASET.NUM_SHOTS", "1"]
        assert train.main([*argv, *own, "DATALOADER.CACHE", "ram"]) == 2
    else:
        assert predict.main(["--images", str(tmp_path), "--classes", "red okapi", "xylophones"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "does not know 'okapi', 'xylophones'" in last and "python -m tools.data words" in last


def test_zero_shot_needs_no_run(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(["--images", str(photos / "new"), "--classes", *CLASSES, "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2 * len(CLASSES)


def test_zero_shot_predictions_use_the_template_of_the_runs_data_set(tmp_path: Path) -> None:
    """It is on record: no data set is looked up. A run without that record has the general one."""
    argv = ["--trainer", "ZeroshotCLIP", "--seed", "1", "--output-dir", str(tmp_path), "MODEL.BACKBONE.NAME", "tiny"]
    assert (
        train.main([*argv, "DATASET.NAME", "TinyDigits", "INPUT.SIZE", "(32, 32)", "DATALOADER.NUM_WORKERS", "0"]) == 0
    )
    found = load_classifier(tmp_path, ["zero", "one"])
    own = DATASET_REGISTRY.get("TinyDigits").template
    assert found.template == own and found.ensemble[-1] == own and len(found.ensemble) == 8
    assert torch.equal(found.text_features, found.zeroshot([own]))
    (tmp_path / "metrics.json").unlink()
    assert load_classifier(tmp_path, ["zero", "one"]).template == "a photo of a {}."


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--images", "x.jpg"], "Give class names"),
        (["--classes", "zero"], "Nothing to do"),
        (["--classes", "zero", "--images", "nowhere.png"], "nowhere.png"),
        (["--classes", "zero", "one", "Zero", "--images", "x.jpg"], "'zero' and 'Zero' are the same"),
        (["--classes", "zero", " ", "--images", "x.jpg"], "the class name ' ' is empty"),
        (["--classes", "zero", "--export", "never", "--opts", "MODEL.TEXT_MEMORY_GB", "0"], "MODEL.TEXT_MEMORY_GB"),
        (["--classes", "zero", "--export", "never", "--model-dir", "configs"], "not the folder of a run"),
        (["--classes", "zero", "--images", "x", "--topk", "0"], "--topk and --batch-size must be at least 1"),
        (["--classes", "zebra", "--export", "never.safetensors"], "zebra"),
    ],
)
def test_bad_input_is_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main(argv) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last


def test_a_config_that_was_cut_off_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (run / "config.yaml").read_text().splitlines(keepends=True)
    (tmp_path / "config.yaml").write_text("".join(lines[: len(lines) // 2]))
    assert predict.main(["--model-dir", str(tmp_path), "--classes", "a", "b", "--export", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.endswith(
        "config.yaml does not say what was trained (TRAINER.NAME); is the file complete?\n"
    )


def test_a_class_name_file_in_another_encoding_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes("caf\u00e9\nbar\n".encode("latin-1"))
    assert predict.main(["--classnames-file", str(names), "--images", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f'ValueError: "{names}" is not a text file in UTF-8: ' + (
        "'utf-8' codec can't decode byte 0xe9 in position 3: invalid continuation byte; save it in that encoding\n"
    )
