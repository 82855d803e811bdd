"""The classifier that all methods share: frozen CLIP, class subsets, other class lists, cached text features."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor

from clip import PromptPlan
from clip.model import CLIP
from tests.clip.small import difference
from trainers import PromptTrainer
from trainers.options import defaults

from .world import CLASSNAMES, METHODS, Make, batch, losses, method_class, randomise, step

METHOD = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of texts with every call of the text encoder."""
    calls: list[int] = []
    encode = CLIP.encode_text

    def counted(model: CLIP, text: object, *rest: object, **options: object) -> Tensor:
        calls.append(len(text))
        return encode(model, text, *rest, **options)

    monkeypatch.setattr(CLIP, "encode_text", counted)
    return calls


@METHOD
def test_clip_stays_as_it_is(method: str, make: Make) -> None:
    """Bit for bit, after steps in training mode; nothing of it is in the optimiser."""
    trainer = make(method)
    before = {key: value.clone() for key, value in trainer.model.clip.state_dict().items()}
    trainer.set_model_mode("train")
    for _ in range(2):
        step(trainer, *batch())
    assert not any(p.requires_grad or p.grad is not None for p in trainer.model.clip.parameters())
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.clip.state_dict().items())
    assert not any(module.training for module in trainer.model.clip.modules())


@METHOD
@pytest.mark.parametrize("learning", [True, False])
def test_a_subset_of_the_classes(method: str, learning: bool, make: Make) -> None:
    image, classes = batch()[0], torch.tensor([4, 1, 3])
    model = randomise(make(method)).model
    with torch.set_grad_enabled(learning):
        assert difference(model(image, classes), model(image)[:, classes]) < 1e-5


@pytest.mark.parametrize("method", [name for name in METHODS if "CSC" in defaults(method_class(name).Options)])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_a_subset_of_class_specific_contexts(method: str, position: str, make: Make) -> None:
    image, classes = batch()[0], torch.tensor([4, 1, 3])
    model = randomise(make(method, {"CTX_INIT": "", "CSC": True, "CLASS_TOKEN_POSITION": position})).model
    assert difference(model(image, classes), model(image)[:, classes]) < 1e-5
    model.method.ctx.grad = None
    model(image, classes).sum().backward()
    untouched = [i for i in range(len(CLASSNAMES)) if i not in classes.tolist()]
    assert not model.method.ctx.grad[untouched].any()
    assert all(model.method.ctx.grad[i].any() for i in classes)


@METHOD
def test_other_class_names(method: str, make: Make) -> None:
    """The same prompts with a longer list: the old names keep their logits."""
    own_rule = {"MIX": "never"} if method == "MMRL" else None  # for the classes of the training
    model, image = randomise(make(method, own_rule)).model, batch()[0]
    with torch.no_grad():
        before = model(image)
        model.set_classnames([*CLASSNAMES, "tiny orange_boat", "sky"])
        assert model.classnames[6:] == ["tiny orange boat", "sky"]
        after = model(image)
    assert after.shape == (5, 8)
    assert difference(after[:, :6], before) < 1e-5


@METHOD
def test_batch_equals_its_images(method: str, make: Make) -> None:
    model, image = randomise(make(method)).model.eval(), batch()[0]
    with torch.no_grad():
        assert difference(model(image), torch.cat([model(one[None]) for one in image])) < 1e-5


def kind_of_text(trainer: PromptTrainer) -> tuple[bool, bool]:
    """Whether each image has texts of its own, and whether no prompt acts on the texts."""
    clip = trainer.model.clip
    try:
        _ = trainer.model.text_features
    except ValueError:
        return True, False
    with mock.patch.object(clip, "encode_text", wraps=clip.encode_text) as encode:
        _ = trainer.model.text_features
    return False, not encode.called


def test_kinds_of_text(make: Make) -> None:
    found = {method: kind_of_text(make(method)) for method in ("CoOp", "CoCoOp", "VPT")}
    assert found == {"CoOp": (False, False), "CoCoOp": (True, False), "VPT": (False, True)}


@METHOD
def test_text_is_encoded_once_an_evaluation(method: str, make: Make, encodings: list[int]) -> None:
    """... but again after the prompts have changed; unless texts depend on the image, or are not prompted."""
    per_image, constant = kind_of_text(make(method))
    trainer = make(method)
    trainer.set_model_mode("eval")
    image, label = batch()
    encodings.clear()
    with torch.no_grad():
        for _ in range(3):
            first = trainer.model(image)
    assert len(encodings) in ([3] if per_image else [0, 1] if constant else [1])  # 0: by the method's beginning
    step(trainer, image, label)
    encodings.clear()
    with torch.no_grad():
        second = trainer.model(image), trainer.model(image)
    assert len(encodings) == (2 if per_image else 0 if constant else 1)
    assert not torch.equal(first, second[0]) and torch.equal(*second)


@METHOD
def test_text_is_encoded_again_after_a_fused_step(method: str, make: Make) -> None:
    """A fused optimiser changes tensors without raising their version."""
    trainer = make(method)
    trainer.set_model_mode("eval")
    image, label = batch()
    with torch.no_grad():
        trainer.model(image)
    learned = [p for p in trainer.model.method.parameters() if p.requires_grad]
    versions = [p._version for p in learned]
    sum(losses(trainer, image, label).values()).backward()
    torch.optim.SGD(learned, lr=0.1, fused=True).step()
    assert versions == [p._version for p in learned]
    with torch.no_grad():
        after = trainer.model(image)
        trainer.model.set_classnames(CLASSNAMES)
        assert torch.equal(after, trainer.model(image))


def test_fixed_text_is_encoded_once_in_all(make: Make, encodings: list[int]) -> None:
    trainer = make("VPT")
    encodings.clear()
    for _ in range(3):
        step(trainer, *batch())
    assert len(encodings) <= 1


@METHOD
def test_memory_budget_changes_no_number(method: str, make: Make) -> None:
    """Texts in chunks that are recomputed: the same loss and gradients."""
    results = []
    for budget in (4.0, 1e-4):
        trainer = make(method, None, "MODEL.TEXT_MEMORY_GB", budget)
        trainer.model.method.backward(losses(trainer, *batch()))
        results.append([p.grad for p in trainer.model.method.parameters() if p.requires_grad])
    assert all(difference(small, large) < 1e-4 for large, small in zip(*results))


def test_views_of_an_image_lie_behind_one_another(make: Make) -> None:
    """K_TRANSFORMS: K lists of B images become K B images with their labels."""
    trainer = make("CoOp")
    views, label = [torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32)], torch.tensor([3, 1])
    found = trainer.parse_batch_train({"img": views, "label": label})
    assert torch.equal(found.image, torch.cat(views))
    assert found.label.tolist() == found.candidates.target.tolist() == [3, 1, 3, 1]


# What is encoded once must not outlive what it was encoded from


def test_each_plan_has_its_own_class_features(make: Make) -> None:
    """In evaluation, where they are kept: a method may have more than one context, and texts of its own."""
    model = make("CoOp").model.eval()
    first, second = (PromptPlan(torch.randn_like(model.method.ctx)) for _ in range(2))
    with torch.no_grad():
        found = [model.encode_text(plan) for plan in (first, second, first)]
        assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
        expected = make("CoOp").model.train().encode_text(second)  # where nothing is kept
    assert difference(found[1], expected) < 1e-6


def test_prompts_that_are_loaded_in_evaluation_count(make: Make) -> None:
    model, other = make("MaPLe").model.eval(), randomise(make("MaPLe")).model.eval()
    image = batch()[0]
    with torch.no_grad():
        model(image)
        model.method.load_state_dict(other.method.state_dict())
        assert torch.equal(model(image), other(image))


def test_class_names_that_are_refused_change_nothing(make: Make) -> None:
    model, image = make("CoOp").model.eval(), batch()[0]
    with torch.no_grad():
        before = model(image)
        for names in (["sky", "far " * 90], []):
            with pytest.raises(ValueError, match=r"too long|needs class names"):
                model.set_classnames(names)
            assert model.classnames == [name.replace("_", " ") for name in CLASSNAMES]
            assert torch.equal(model(image), before)


@pytest.mark.parametrize("method", ["CoOp", "VPT", "ZeroshotCLIP"])
def test_a_model_that_is_converted_encodes_again(method: str, make: Make) -> None:
    model, image = make(method).model.eval(), batch()[0]
    with torch.no_grad():
        first = model(image)
        assert difference(model.double()(image.double()), first) < 1e-4


def test_what_is_kept_in_inference_mode_does_not_hinder_training(make: Make) -> None:
    trainer = make("PromptSRC")
    image, label = batch()
    with torch.inference_mode():
        trainer.model.eval()(image)
        trainer.model.zeroshot()
    trainer.model.train()
    assert step(trainer, image, label) > 0


def test_frozen_features_of_half_precision_are_added_in_fp32(make: Make) -> None:
    """The mean of features as they leave CLIP, over many templates."""
    model = make("PromptSRC", {"PREC": "bf16"}).model
    templates = [f"{word} photo of a {{}}." for word in ("a", "one", "the", "this", "my", "some", "that", "no") * 8]
    with torch.no_grad():
        total = sum(model._encode_template(template).double() for template in templates)
    assert difference(model.zeroshot(templates, unit_each=False), total / total.norm(dim=1, keepdim=True)) < 1e-5


@pytest.mark.parametrize(
    ("precision", "on_gpu", "on_cpu", "scaled"),
    [
        ("fp32", None, None, False),
        ("bf16", None, None, False),
        ("fp16", None, None, True),
        ("amp", torch.float16, torch.bfloat16, True),
        ("amp_bf16", torch.bfloat16, torch.bfloat16, False),
    ],
)
@pytest.mark.filterwarnings("ignore:CUDA is not available", "ignore:User provided device_type")
def test_what_is_autocast_to(
    precision: str,
    on_gpu: torch.dtype | None,
    on_cpu: torch.dtype | None,
    scaled: bool,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And whether a GPU's gradients need a scaled loss."""
    classifier = make("CoOp", {"PREC": precision}).model
    assert getattr(classifier.autocast(), "fast_dtype", None) == on_cpu
    monkeypatch.setattr(type(classifier), "device", property(lambda self: torch.device("cuda")))
    assert getattr(classifier.autocast(), "fast_dtype", None) == on_gpu
    assert classifier.has_fp16_activations == scaled


def test_rows_of_classes_follow_their_names(make: Make) -> None:
    """Before any training, and for its classes, they are taken as they come; none are of no class."""
    classifier, others = make("ZeroshotCLIP").model, torch.tensor([[-1.0], [-2.0], [-3.0]])
    rows = torch.arange(6.0)[:, None]
    assert classifier.rows_of_now(rows) is rows
    classifier.trained_on = None
    assert classifier.rows_of_now(rows) is rows
    assert classifier.rows_of_now(rows[:0], 4.0).tolist() == [[4.0]] * 6
    with pytest.raises(ValueError, match="learned tensors of 3 classes, not of these 6"):
        classifier.rows_of_now(rows[:3])
    classifier.trained_on = tuple(classifier.classnames)
    classifier.set_classnames([CLASSNAMES[4], "sky", CLASSNAMES[0]])
    assert classifier.rows_of_now(rows).tolist() == [[4.0], [0.0], [0.0]]
    assert classifier.rows_of_now(rows, others).tolist() == [[4.0], [-2.0], [0.0]]
    assert classifier.rows_of_now(torch.arange(6), -1).tolist() == [4, -1, 0]
