"""The names that people import, and ``clip.load`` as OpenAI's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import clip
from clip.clip import image_transform

from .small import SIZE, difference, small_clip


def test_familiar_import_paths() -> None:
    from clip import clip as module
    from clip.simple_tokenizer import SimpleTokenizer

    assert module.load is clip.load and module.tokenize is clip.tokenize
    assert SimpleTokenizer().encode("a cat") == [320, 2368]
    assert clip.available_models()[0] == "tiny"
    assert {"RN50", "RN101", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"} <= set(clip.available_models())


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    save_file({k: v.contiguous() for k, v in small_clip().state_dict().items()}, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_load_by_path_gives_model_and_transform(weights_file: Path) -> None:
    model, transform = clip.load(str(weights_file), device="cpu")
    image = Image.effect_mandelbrot((48, 40), (-2, -1.5, 1, 1.5), 50)
    logits_per_image, logits_per_text = model(transform(image)[None], clip.tokenize(["a cat", "a dog", "a sea"]))
    assert logits_per_image.shape == (1, 3)
    assert torch.equal(logits_per_text, logits_per_image.t())
    assert not model.training and model.dtype == torch.float32


def test_the_shipped_model_tells_red_from_blue() -> None:
    model, transform = clip.load("tiny", device="cpu")
    images = torch.stack([transform(Image.new("RGB", (64, 64), colour)) for colour in ("red", "blue", "green")])
    logits, _ = model(images, clip.tokenize(["a photo of a red square.", "a photo of a blue square.", "green"]))
    assert logits.argmax(dim=1).tolist() == [0, 1, 2]


def test_jit_is_refused(weights_file: Path) -> None:
    with pytest.raises(ValueError, match="jit=True is not supported"):
        clip.load(str(weights_file), jit=True)


@pytest.mark.parametrize(("mode", "size"), [("RGB", (50, 40)), ("L", (32, 32)), ("RGBA", (40, 90)), ("P", (33, 31))])
def test_transform_equals_open_clip(mode: str, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    theirs = open_clip.image_transform(SIZE, is_train=False)(image)
    ours = image_transform(SIZE)(image)
    assert ours.shape == (3, SIZE, SIZE) and ours.dtype == torch.float32
    assert difference(ours, theirs) < 1e-6
