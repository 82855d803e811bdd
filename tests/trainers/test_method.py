"""A method is not a trainer: it is built without an engine, and stays small."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import configs
from clip.model import CLIP
from tests.clip.small import difference
from trainers import MaPLe, Method, PromptedCLIP
from trainers.method import Batch

from .world import CLASSNAMES, METHODS, TEXT_ONLY, Make, batch, equal, losses, method_class, step


def test_a_method_is_built_in_one_line(model32: CLIP) -> None:
    classifier = PromptedCLIP(model32, MaPLe(model32, MaPLe.Options(N_CTX=2, PROMPT_DEPTH=2)), ["red fox", "badger"])
    image, label = batch(3)[0], torch.tensor([0, 1, 1])
    classifier.method.loss(classifier, Batch.of(image, label))["ce_loss"].backward()
    assert all(p.grad.any() for p in classifier.method.parameters())
    assert not any(p.requires_grad for p in model32.parameters())
    classifier.eval()
    with torch.no_grad():
        assert torch.equal(classifier(image), classifier.cosine_logits(*classifier.features(image)))
    found = classifier.predict(image, topk=2)
    assert [{name for name, _ in best} for best in found] == [{"red fox", "badger"}] * 3
    assert all(sum(value for _, value in best) == pytest.approx(1, abs=1e-5) for best in found)


@pytest.mark.parametrize("name", METHODS)
def test_it_is_the_trainers_without_the_trainer(name: str, make: Make) -> None:
    """The same loss terms and logits from the same tensors."""
    trainer = make(name)
    step(trainer, *batch())
    clip, kind = trainer.model.clip, method_class(name)
    method = kind(clip, trainer.options, len(CLASSNAMES))
    method.load_state_dict(trainer.model.method.state_dict())
    words = (trainer.model.template, trainer.model.ensemble)
    classifier = PromptedCLIP(clip, method, CLASSNAMES, *words)
    method.begin(classifier, trainer.image_sets)
    classifier.trained_on = trainer.model.trained_on  # for a rule of its own on the classes of the training
    torch.manual_seed(1)
    expected = losses(trainer, *batch())
    torch.manual_seed(1)
    found = method.loss(classifier, trainer.parse_batch_train(dict(zip(("img", "label"), batch()))))
    assert equal({key: term.detach() for key, term in expected.items()}, {k: found[k].detach() for k in expected})
    with torch.no_grad():
        assert torch.equal(classifier.eval()(batch()[0]), trainer.model.eval()(batch()[0]))


@pytest.mark.parametrize("name", METHODS)
def test_class_features_alone(name: str, make: Make) -> None:
    """Those that an image meets; or it is told that they depend on the image."""
    model, image = make(name).model.eval(), batch()[0]
    with torch.no_grad():
        text = model.features(image)[1]
        if text.dim() == 3:
            with pytest.raises(ValueError, match=f"{name}'s text features depend on the image"):
                _ = model.text_features
        else:
            assert difference(model.text_features, text) < 1e-6


@pytest.mark.parametrize("name", TEXT_ONLY)
def test_features_pass_for_images_unless_images_are_needed(name: str, make: Make) -> None:
    trainer, (image, label) = make(name), batch()
    torch.manual_seed(1)
    expected = losses(trainer, image, label)
    torch.manual_seed(1)
    found = losses(trainer, trainer.model.encode_image(image), label)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_what_is_learned_is_fp32_and_all_there_is(make: Make) -> None:
    """The method's parameters are the classifier's, besides CLIP's."""
    for name in METHODS:
        model = make(name, {"PREC": "bf16"}).model
        own = {id(p) for p in model.method.parameters()}
        assert {id(p) for p in model.parameters() if p.requires_grad} <= own
        assert all(p.dtype == torch.float32 for p in model.method.parameters())


# Smallness

NAMES = tuple(configs.methods())
OURS = ("clip", "configs", "dassl", "datasets", "trainers")


@pytest.mark.parametrize("name", NAMES)
def test_a_method_stands_on_few_classes(name: str) -> None:
    above = [one for one in method_class(name).__mro__[1:] if one.__module__.split(".")[0] in OURS]
    assert issubclass(method_class(name), Method) and len(above) <= 2, above


@pytest.mark.parametrize("name", NAMES)
def test_a_method_has_few_public_names(name: str) -> None:
    own = {one for one in dir(method_class(name)) if not one.startswith("_")} - set(dir(nn.Module))
    assert len(own) <= 15, sorted(own)
