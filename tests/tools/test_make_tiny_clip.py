"""The tiny CLIP's maker: captions tell the truth and keep some words apart, the loss is CLIP's, the file loads."""

import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clip
from clip.clip import TINY, load_model
from clip.model import CLIP
from clip.weights import read_weights
from datasets.embedded import EMBEDDED, TinySource
from datasets.templates import ensemble
from tools import make_tiny_clip
from tools import tiny_clip as maker


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text))


def test_captions_are_true_and_never_name_a_held_out_thing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene, captions = maker.one_thing(rng)
        (thing,) = scene.things
        seen = {thing.colour, thing.texture, thing.shape}
        assert not maker.held_out(
            (thing.colour, maker.COLOURS), (thing.texture, maker.TEXTURES), (thing.shape, maker.SHAPES)
        )
        for caption in captions:
            named = words(caption) & {*maker.COLOURS, *maker.TEXTURES, *maker.SHAPES}
            assert thing.shape in named
            assert named <= seen | {"white"}  # "a black and white photo" is one of CLIP's templates


def test_counted_and_related_things_match_their_captions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        scene, captions = maker.several_things(rng)
        assert all(
            {count for count, number in maker.COUNTS.items() if number == len(scene.things)} & words(c)
            for c in captions
        )
        scene, captions = maker.two_things(rng)
        first, second = scene.things
        above, left = first.y < second.y - 0.5, first.x < second.x - 0.5
        relation = "above" if above else "left of" if left else "inside"
        top, bottom = (second, first) if relation == "inside" else (first, second)
        assert all(re.search(rf"{top.shape} {relation} a (\w+ )?{bottom.shape}", c) for c in captions)


def test_the_shipped_model_saw_these_pictures_and_captions() -> None:
    """The data sets may change, but not what the shipped file was trained on: it could not be made again."""
    corpus = maker.make_corpus(seed=1, size=200)
    means = corpus.images.float().mean((1, 2, 3))
    assert means[:4].tolist() == pytest.approx([89.48, 101.28, 108.12, 84.24], abs=0.01)
    assert means.mean().item() == pytest.approx(118.86, abs=0.01)
    ids = corpus.vocabulary[corpus.texts[corpus.captions[:, 0]].long()]
    assert sha256(ids.to(torch.int32).numpy().tobytes()).hexdigest().startswith("9bbfe6fa7df9b394")
    assert corpus.vocabulary.tolist() == load_model("tiny").known_tokens.nonzero().flatten().tolist()


def test_a_third_of_the_source_is_held_out() -> None:
    kept = [
        maker.held_out((c, maker.COLOURS), (t, maker.TEXTURES), (s, maker.SHAPES)) for c, t, s in TinySource.classes()
    ]
    assert np.mean(kept) == pytest.approx(1 / 3, abs=0.01)


def test_the_loss_is_clips_when_all_captions_differ() -> None:
    torch.manual_seed(0)
    model = CLIP(**maker.SIZES, vocab_size=50)
    images, texts = torch.randn(5, 3, 32, 32), torch.randint(1, 49, (5, 77))
    texts[:, 6] = 49
    logits, _ = model(images, texts)
    expected = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.t(), torch.arange(5))) / 2
    assert maker.contrastive_loss(model, images, texts, torch.arange(5)).item() == pytest.approx(
        expected.item(), abs=1e-5
    )


def test_two_images_with_one_caption_are_both_right() -> None:
    torch.manual_seed(0)
    model = CLIP(**maker.SIZES, vocab_size=50)
    image, texts = torch.randn(1, 3, 32, 32), torch.tensor([[1, 2, 49], [1, 3, 49]])
    twice = maker.contrastive_loss(model, image.expand(2, -1, -1, -1), texts[:1], torch.zeros(2, dtype=torch.long))
    assert twice.item() == pytest.approx(np.log(2) / 2, abs=1e-5)  # image to text: certain; text to image: one of two


def test_a_few_steps_make_a_file_that_loads(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    maker.make(path, images=40, steps=3, batch_size=8, lr=1e-3, seed=0)
    first, _ = read_weights(path)
    model = load_model(path=str(path))
    assert model.encode_text(clip.tokenize(["a photo of a red square."])).shape == (1, maker.SIZES["embed_dim"])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    maker.make(path, images=40, steps=3, batch_size=8, lr=1e-3, seed=0)
    again, _ = read_weights(path)
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)


def test_the_shipped_model_is_small_and_knows_all_words() -> None:
    assert TINY == make_tiny_clip.ASSET
    assert TINY.stat().st_size < 5e6
    model = load_model("tiny")
    names = [" ".join(name) for dataset in EMBEDDED for name in dataset.classes()]
    prompts = [template.format(names[0]) for dataset in EMBEDDED for template in ensemble(dataset.template)]
    tokens = clip.tokenize([*names, *prompts, "X X X X", "a photo of a"])
    assert model.known_tokens[tokens.long()].all()
    assert model.visual.width != model.transformer.width
