"""Planted errors, each of which ``tools.verify`` must find and name; what is expected is computed here by hand."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clip.clip import TINY, image_transform, tokenize
from datasets.embedded import TinyPrint
from tests.clip.small import SIZE, small_clip
from tests.datasets import layouts
from tests.tools.test_verify import verify
from tools.verify import accuracy
from tools.verify.verdicts import ABSENT, OK, WRONG

NAMES = {"EuroSAT": "eurosat", "ImageNetSketch": "imagenet_sketch"}
TEMPLATES = {"EuroSAT": "a centered satellite photo of {}.", "ImageNetSketch": "a photo of a {}."}
FOLDERS = {"EuroSAT": "eurosat/2750", "ImageNetSketch": "imagenet-sketch/images"}
SMALL = ["INPUT.SIZE", f"({SIZE}, {SIZE})", "DATALOADER.NUM_WORKERS", "0"]


class World:
    """Two miniatures, a small CLIP, and the file of what is expected of them."""

    def __init__(self, folder: Path) -> None:
        self.root, self.weights, self.expect = folder / "data", folder / "clip.safetensors", folder / "expect.json"
        self.out = folder / "out"
        self.clip = small_clip(context_length=77)
        save_file(self.clip.state_dict(), self.weights)
        facts, numbers = {}, {}
        for name, stem in NAMES.items():
            layout = layouts.make(name, self.root)
            names = hashlib.sha256("\n".join(layout.classnames).encode()).hexdigest()
            facts[name] = {part: len(getattr(layout, part)) for part in ("train", "val", "test")}
            facts[name] |= {"classes": len(layout.classnames), "classnames_sha256": names, "template": TEMPLATES[name]}
            numbers[stem] = self.zero_shot(name, layout)
        split = (self.root / "eurosat/split_zhou_EuroSAT.json").read_bytes()
        facts["EuroSAT"]["split_sha256"] = hashlib.sha256(split).hexdigest()
        content = {"backbone": "", "sha256": hashlib.sha256(self.weights.read_bytes()).hexdigest(), "datasets": facts}
        self.expect.write_text(json.dumps(content | {"accuracies": {"ZeroshotCLIP": numbers}}))

    @torch.no_grad()
    def zero_shot(self, name: str, layout: layouts.Layout) -> float:
        """By hand: percent of the test images whose class's sentence is the nearest."""
        folder, transform = self.root / FOLDERS[name], image_transform(SIZE)
        image = self.clip.encode_image(torch.stack([transform(Image.open(folder / path)) for path, *_ in layout.test]))
        sentences = [TEMPLATES[name].format(one.replace("_", " ")) for one in layout.classnames]
        text = self.clip.encode_text(tokenize(sentences))
        scores = image @ (text / text.norm(dim=-1, keepdim=True)).t()
        labels = torch.tensor([label for _, label, _ in layout.test])
        return 100 * (scores.argmax(1) == labels).double().mean().item()

    def words(self, *more: object) -> list[object]:
        files = ["--root", self.root, "--expect", self.expect, "--weights", self.weights, "--out", self.out]
        return [*files, "--only", "weights", "data", "zeroshot", "--opts", *SMALL, *more]


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(right: World, tmp_path: Path) -> World:
    """A copy, to plant an error in."""
    shutil.copytree(right.root.parent, tmp_path, dirs_exist_ok=True)
    copy = object.__new__(World)
    copy.root, copy.weights, copy.expect = tmp_path / "data", tmp_path / "clip.safetensors", tmp_path / "expect.json"
    copy.out, copy.clip = tmp_path / "out2", right.clip
    return copy


def wrong_lines(capsys: pytest.CaptureFixture[str], *argv: object) -> list[str]:
    """Part and text of what is found to be wrong, which the exit status says."""
    status, lines = verify(capsys, *argv)
    found = [f"{part}: {line}" for state, part, line in lines if state == WRONG]
    assert status == bool(found)
    return found


def test_miniatures_without_an_error(right: World, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = verify(capsys, *right.words())
    assert status == 0 and {state for state, *_ in lines} == {OK}
    assert "EuroSAT: 4 classes; 20 train, 8 val, 12 test; class names, split file, template" in [x[2] for x in lines]
    assert [part for _, part, _ in lines].count("zeroshot") == 2


def test_a_swapped_class_list(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Two names have changed places in the split file."""
    path = world.root / "eurosat/split_zhou_EuroSAT.json"
    text = path.read_text()
    swapped = text.replace('"Forest"', '"?"').replace('"Sea or Lake"', '"Forest"').replace('"?"', '"Sea or Lake"')
    path.write_text(swapped)
    found = wrong_lines(capsys, *world.words())
    assert found[0].startswith("data: EuroSAT, class names: ") and "in another order" in found[0]
    assert any(line.startswith("data: EuroSAT, split file: ") for line in found)
    assert not any("Sketch" in line for line in found)


def test_another_template(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the settings, or in the reader."""
    line = f"data: EuroSAT, template: an x-ray of {{}}., expected {TEMPLATES['EuroSAT']}"
    found = wrong_lines(capsys, "eurosat", *world.words("DATASET.TEMPLATE", "an x-ray of {}."))
    assert found[0].startswith(line)
    from datasets import EuroSAT

    monkeypatch.setattr(EuroSAT, "template", "an x-ray of {}.")
    assert wrong_lines(capsys, *world.words())[0].startswith(line)


def test_a_wrong_normalisation(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ImageNet's in the settings; and one that the settings know nothing of."""
    imagenet = ["INPUT.PIXEL_MEAN", "[0.485, 0.456, 0.406]", "INPUT.PIXEL_STD", "[0.229, 0.224, 0.225]"]
    (found, *_) = wrong_lines(capsys, *world.words(*imagenet))
    expected = "expected mean 0.481 0.458 0.408, std 0.269 0.261 0.276"
    assert found.startswith(f"weights: normalisation: mean 0.485 0.456 0.406, std 0.229 0.224 0.225, {expected}")
    build = accuracy.build_transform
    monkeypatch.setattr(
        accuracy, "build_transform", lambda *args, **more: lambda image: 2 * build(*args, **more)(image)
    )
    (found, *_) = wrong_lines(capsys, *world.words("SEED", "2"))
    assert found.startswith("weights: normalisation: mean 0.481 0.458 0.408, std 0.134 0.131 0.138, expected")


@pytest.mark.parametrize("change", [["INPUT.INTERPOLATION", "nearest"], ["INPUT.TRANSFORMS", "[]"]])
def test_other_pixels(change: list[str], world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert any(line.startswith("weights: ") for line in wrong_lines(capsys, *world.words(*change)))


def remove_eurosat(root: Path) -> None:
    shutil.rmtree(root / "eurosat/2750/Forest")


def remove_sketch(root: Path) -> None:
    shutil.rmtree(root / "imagenet-sketch/images/n01443537")


@pytest.mark.parametrize(
    ("remove", "messages"),
    [
        (remove_eurosat, ["data: EuroSAT: ", "10 of 40 image files are missing", "No image at all of Forest"]),
        (
            remove_sketch,
            [
                "data: ImageNetSketch, number of classes: 4, expected 5; there is no class folder of goldfish",
                "data: ImageNetSketch, test images: 12, expected 15",
            ],
        ),
    ],
)
def test_an_image_set_with_one_class_missing(
    remove: Callable[[Path], None], messages: list[str], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where all was right before: what is kept is of other files."""
    assert not wrong_lines(capsys, *world.words())
    remove(world.root)
    found = "\n".join(wrong_lines(capsys, *world.words()))
    for message in messages:
        assert message in found


def test_images_that_lack_a_part_of_the_download(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A split file is there, images are not; of the other set nothing is."""
    shutil.rmtree(world.root / "eurosat/2750")
    shutil.rmtree(world.root / "imagenet-sketch")
    status, lines = verify(capsys, *world.words())
    assert status == 1
    assert [(state, line.split(":")[0]) for state, part, line in lines if part == "data"] == [
        (WRONG, "EuroSAT"),
        (ABSENT, "ImageNetSketch"),
    ]


def test_weights_with_one_tensor_changed(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """By a digit; the hash tells."""
    weights = load_file(world.weights)
    weights["visual.proj"][3, 5] += 1e-3
    save_file(weights, world.weights)
    found = wrong_lines(capsys, *world.words())
    before = json.loads(world.expect.read_text())["sha256"][:12]
    assert found[0].startswith("weights: SHA-256 of clip.safetensors: ")
    assert f"..., expected {before}...; not the published file" in found[0]


def test_the_changed_tensor_is_named_where_each_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in the embedded world."""
    weights = load_file(TINY)
    weights["transformer.resblocks.1.ln_2.bias"][7] = -weights["transformer.resblocks.1.ln_2.bias"][7]
    save_file(weights, tmp_path / "tiny.safetensors", {"activation": "quick_gelu"})
    words = ("TinyPrint", "--weights", tmp_path / "tiny.safetensors", "--out", tmp_path / "out", "--only", "weights")
    found = wrong_lines(capsys, *words)
    assert found[1].startswith("weights: tensors: changed: transformer.resblocks.1.ln_2.bias (1), expected all 87")


def test_weights_that_are_broken_or_of_another_backbone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(world.weights)
    weights["ln_final.weight"][0] = float("nan")
    save_file(weights, world.weights)
    words = ["eurosat", "--root", world.root, "--weights", world.weights, "--only", "weights", "--out", world.out]
    found = wrong_lines(capsys, *words, "--backbone", "ViT-B/32")
    assert "of another shape" in found[1] and "expected the 302 tensors of ViT-B/32" in found[1]
    assert found[2].startswith("weights: numbers: not finite: ln_final.weight")
    world.weights.write_bytes(world.weights.read_bytes()[:1000])
    assert "truncated" in wrong_lines(capsys, *words, "--backbone", "ViT-B/32")[1]


def test_other_weights_than_openais_have_another_temperature() -> None:
    from tools.verify.weights import verify_numbers

    scale = torch.tensor(100.0).log()
    assert verify_numbers({"logit_scale": scale}, "ViT-B/16").state == OK
    assert verify_numbers({"logit_scale": scale / 2}, "ViT-B/16").state == WRONG
    assert verify_numbers({"logit_scale": scale / 2}, "tiny").state == OK


def test_an_accuracy_off_by_more_than_the_tolerance(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(world.expect.read_text())
    numbers = content["accuracies"]["ZeroshotCLIP"]
    right = numbers["eurosat"]
    for off, is_wrong in ((0.29, False), (0.31, True), (-0.29, False), (-0.31, True)):
        numbers["eurosat"] = right + off
        world.expect.write_text(json.dumps(content))
        found = wrong_lines(capsys, "eurosat", *world.words())
        assert len(found) == is_wrong
    assert found[0].startswith(f"zeroshot: EuroSAT: {right:.2f} % of 12 images") and "± 0.3 % (expect.json)" in found[0]


def test_names_that_were_swapped_are_guessed_from_the_confusion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no list of names is known; the pictures stay those of the right names."""
    rows = TinyPrint.rows.__func__
    other = {"one": "four", "four": "one"}
    swap = lambda item: item._replace(classname=other.get(item.classname, item.classname))  # noqa: E731
    monkeypatch.setattr(TinyPrint, "rows", classmethod(lambda cls, split: [*map(swap, rows(cls, split))]))
    found = wrong_lines(capsys, "TinyPrint", "--out", tmp_path, "--only", "data", "zeroshot")
    assert found[0].startswith("data: TinyPrint, class names: ")
    assert "as if names were swapped: " in found[1] and {"one and four", "four and one"} & {
        *found[1].split(": ")[-1].split("; ")
    }


def test_what_is_recorded_is_expected_elsewhere(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recorded file says what was computed by hand, and all is right beside it."""
    recorded = tmp_path / "recorded.json"
    status, _ = verify(capsys, "--record", recorded, *world.words())
    assert status == 0
    by_hand, found = json.loads(world.expect.read_text()), json.loads(recorded.read_text())
    del by_hand["datasets"]["EuroSAT"]["split_sha256"]
    assert found["datasets"] == by_hand["datasets"] and found["sha256"] == by_hand["sha256"]
    for stem, number in by_hand["accuracies"]["ZeroshotCLIP"].items():
        assert found["accuracies"]["ZeroshotCLIP"][stem] == pytest.approx(number, abs=0.006)
    world.expect = recorded
    assert not wrong_lines(capsys, *world.words())


def test_published_numbers_beside_miniatures(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an expectation file: of the sixteen sets two are here, and they are far too small."""
    words = ["--root", world.root, "--weights", world.weights, "--out", world.out, "--only", "data", "zeroshot"]
    status, lines = verify(capsys, *words, "--opts", *SMALL)
    assert status == 1
    states = {line.split(":")[0]: state for state, part, line in lines if part == "zeroshot"}
    assert states == dict.fromkeys(NAMES, WRONG)
    assert [(state, part) for state, part, _ in lines].count((ABSENT, "data")) == 14
    found = [line for state, part, line in lines if (state, part) == (WRONG, "data")]
    assert "EuroSAT, train images: 20, expected 13500; images are missing, or too many" in "\n".join(found)
    assert any(line.startswith("EuroSAT, few-shot picks: 0 of 15 as published, not 1 shots, seed 1") for line in found)
    assert any("47.84 ± 0.3 % (ProText paper" in line for state, part, line in lines if part == "zeroshot")
