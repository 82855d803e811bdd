"""Each method against its equations in ``plain*.py``: logits, loss, gradients, ten steps of SGD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import configs
from tests.clip.small import LAYERS, difference
from trainers import PromptTrainer

from . import plain, plain_changes, plain_features, plain_losses, plain_mmrl
from .family import write_checkpoint
from .plain import PHRASE
from .world import CLASSNAMES, METHODS, SAMPLING, Make, batch, in_double, learnable, losses, randomise

State = dict[str, Tensor]
PLAIN = {
    **vars(plain),
    **vars(plain_features),
    **vars(plain_changes),
    **vars(plain_losses),
    **vars(plain_mmrl),
}


def case_of(trainer: PromptTrainer) -> plain.Case:
    dataset = trainer.dm.dataset
    fixed = dict(trainer.model.method.named_buffers())
    return plain.Case(trainer.model.clip, trainer.options, CLASSNAMES, dataset.template, dataset.templates, fixed)


def logits(trainer: PromptTrainer, state: State, image: Tensor) -> Tensor:
    """The plain logits of the trainer's method and settings, with the learnable tensors ``state``."""
    return PLAIN[type(trainer).__name__.lower()](case_of(trainer), state, image)


def plain_terms(trainer: PromptTrainer, state: State, image: Tensor, label: Tensor) -> plain.Terms:
    """The plain loss terms; the classes that a step draws are drawn first of all."""
    drawn = torch.randperm(len(CLASSNAMES))[: max(getattr(trainer.options, "UPDATE_CLASS_NUM", 0) - 1, 0)]
    loss = PLAIN.get(f"{type(trainer).__name__.lower()}_loss", plain_losses.default_loss)
    return loss(case_of(trainer), state, image, logits(trainer, state, image), label, drawn)


def plain_gradients(trainer: PromptTrainer, terms: plain.Terms, learned: Sequence[Tensor]) -> Sequence[Tensor | None]:
    gradients = PLAIN.get(f"{type(trainer).__name__.lower()}_gradients", plain_losses.default_gradients)
    return gradients(case_of(trainer), terms, learned)


@pytest.mark.parametrize("name", configs.methods())
def test_every_row_of_the_table_has_a_plain_computation(name: str) -> None:
    assert callable(PLAIN.get(name.lower())), f"give {name} a function {name.lower()} in {plain.__name__}"


def compare(trainer: PromptTrainer, dtype: torch.dtype, tolerance: float, gradient_tolerance: float) -> None:
    """Logits, loss terms, and the gradient of every learnable tensor; frozen ones must have none in the equations
    either."""
    image, label = batch(dtype=dtype)
    learned = learnable(trainer)
    state = {key: p.detach().clone().requires_grad_() for key, p in learned.items()}
    torch.manual_seed(5)
    expected = plain_terms(trainer, state, image, label)
    gradients = plain_gradients(trainer, expected, list(state.values()))
    torch.manual_seed(5)
    found = losses(trainer, image, label)
    trainer.model.method.backward(found)
    assert difference(trainer.model(image), logits(trainer, state, image)) < tolerance
    assert found.keys() == expected.keys()
    whole = float(sum(expected.values()).detach())  # a term that is 1 less a cosine is rounded as these are
    for name, term in found.items():
        assert float((term - expected[name]).detach().abs()) < tolerance * whole, name
    for (key, parameter), gradient in zip(learned.items(), gradients):
        if parameter.requires_grad:
            assert gradient.abs().max() > 0, key
            assert difference(parameter.grad, gradient) < gradient_tolerance, key
        else:
            assert parameter.grad is None, key
            assert gradient is None or not gradient.any(), key


RANDOM = {"N_CTX": 2, "CTX_INIT": ""}
SHORT = {"N_CTX_TEXT": 2, "N_CTX_VISION": 3, "PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 2}
CASES = [
    ("CoOp", {"N_CTX": 1, "CTX_INIT": ""}),
    ("CoOp", {"N_CTX": 4, "CTX_INIT": "", "CLASS_TOKEN_POSITION": "middle"}),
    ("CoOp", {"N_CTX": 3, "CTX_INIT": "", "CLASS_TOKEN_POSITION": "front"}),
    ("CoOp", {"N_CTX": 5, "CTX_INIT": "", "CSC": True}),
    ("CoOp", {"N_CTX": 3, "CTX_INIT": "", "CSC": True, "CLASS_TOKEN_POSITION": "middle"}),
    ("CoOp", {"N_CTX": 2, "CTX_INIT": "", "CSC": True, "CLASS_TOKEN_POSITION": "front"}),
    ("CoOp", {"CTX_INIT": PHRASE}),
    ("CoCoOp", {"N_CTX": 1, "CTX_INIT": ""}),
    ("CoCoOp", {"CTX_INIT": PHRASE}),
    ("VPT", {"N_CTX_VISION": 1, "PROMPT_DEPTH_VISION": 1}),
    ("VPT", {"N_CTX_VISION": 4, "PROMPT_DEPTH_VISION": LAYERS}),
    ("IVLP", {"N_CTX_TEXT": 1, "N_CTX_VISION": 1, "PROMPT_DEPTH_TEXT": 1, "PROMPT_DEPTH_VISION": 1}),
    ("IVLP", {"N_CTX_TEXT": 4, "N_CTX_VISION": 2, "PROMPT_DEPTH_TEXT": LAYERS, "PROMPT_DEPTH_VISION": LAYERS}),
    ("IVLP", {**SHORT, "N_CTX_TEXT": 6, "PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 2}),
    ("IVLP", {"N_CTX_TEXT": 2, "PROMPT_DEPTH_TEXT": LAYERS, "PROMPT_DEPTH_VISION": 0}),
    ("IVLP", {"PROMPT_DEPTH_TEXT": 0, "N_CTX_VISION": 2, "PROMPT_DEPTH_VISION": 2}),
    ("MaPLe", {"N_CTX": 1, "PROMPT_DEPTH": 1}),
    ("MaPLe", {"N_CTX": 2, "PROMPT_DEPTH": 2}),
    ("MaPLe", {"N_CTX": 5, "PROMPT_DEPTH": LAYERS}),
    ("MaPLe", {"N_CTX": 3, "PROMPT_DEPTH": LAYERS, "UNIFIED": True}),
    ("MaPLe", {"N_CTX": 3, "PROMPT_DEPTH": 1, "UNIFIED": True}),
    *[("POMP", {**RANDOM, "UPDATE_CLASS_NUM": k, "CORRECTION_LOG": log}) for k in (2, 4, 7) for log in ("log10", "ln")],
    ("POMP", {**RANDOM, "UPDATE_CLASS_NUM": 4, "LOCAL_CORRECTION": False}),
    ("POMP", {"UPDATE_CLASS_NUM": 4, "N_CTX": 2, "CTX_INIT": "", "CSC": True}),
    ("POMP", {"UPDATE_CLASS_NUM": 4, "N_CTX": 4, "CTX_INIT": "", "CLASS_TOKEN_POSITION": "middle"}),
    *[
        ("RPP", {**SHORT, "QKV": qkv, "RESIDUAL": residual, "PROMPT_DEPTH_TEXT": depth, "PROMPT_DEPTH_VISION": depth})
        for qkv in ("qkv", "kv", "shared")
        for residual in ("carry", "query")
        for depth in (1, 2, LAYERS)
    ],
    ("RPP", {**SHORT, "N_CTX_TEXT": 1, "N_CTX_VISION": 1, "UPDATE_CLASS_NUM": 4, "LAMBDA": 0.7, "TEMPERATURE": 2.0}),
    ("RPP", {**SHORT, "N_CTX_TEXT": 5, "UPDATE_CLASS_NUM": 4, "CORRECTION_LOG": "ln", "RESIDUAL": "query"}),
    ("RPP", {**SHORT, "UPDATE_CLASS_NUM": 7, "LOCAL_CORRECTION": False, "TEACHER.TEMPLATES": "art of the {}."}),
    ("RPP", {**SHORT, "LAMBDA": 0.0, "PROMPT_DEPTH_TEXT": 0}),
    ("RPP", {**SHORT, "TEMPERATURE": 0.5, "PROMPT_DEPTH_VISION": 0}),
    ("PromptSRC", {"PROMPT_DEPTH_TEXT": 1, "TEMPLATES": "art of the {}."}),
    ("PromptSRC", {**SHORT, "N_CTX_TEXT": 5, "PROMPT_DEPTH_VISION": LAYERS, "TEXT_LOSS_WEIGHT": 3.0}),
    ("PromptSRC", {**SHORT, "IMAGE_LOSS_WEIGHT": 0.5, "TEMPLATES": "dataset"}),
    ("ProGrad", {**RANDOM, "LAMBDA": 0.3, "CLASS_TOKEN_POSITION": "front"}),
    ("ProGrad", {**RANDOM, "CSC": True, "TEMPERATURE": 2.0}),
    ("ProGrad", {"N_CTX": 6, "CTX_INIT": PHRASE}),
    ("KgCoOp", {**RANDOM, "W": 0.5, "TEMPLATES": "ensemble", "CLASS_TOKEN_POSITION": "middle"}),
    ("CLIPAdapter", {"RATIO": 0.6, "REDUCTION": 3, "TEMPLATES": "ensemble"}),
    ("TaskRes", {"ALPHA": 1.5, "TEMPLATES": "ensemble"}),
    ("ZSLP", {"TEMPLATES": "ensemble"}),
    ("CLAP", {"TEMPLATES": "ensemble", "PASSES": 2}),
    ("TipAdapterF", {"PASSES": 2, "ALPHA": 2.0, "BETA": 0.7, "TEMPLATES": "ensemble"}),
    ("TCP", {"N_CTX": 1, "LAYER": LAYERS, "TEXT": "{} texture.", "TEMPLATES": "ensemble"}),
    ("TCP", {"N_CTX": 3, "LAYER": 2, "TEXT": "swatch of {}, a type of art", "W": 0.5}),
    ("KgCoOp", {**RANDOM, "CSC": True, "TEMPLATES": "art of the {}."}),
    ("MMRL", {"N_REP_TOKENS": 1, "FIRST_LAYER": LAYERS, "MIX": "never"}),
    ("MMRL", {"N_REP_TOKENS": 3, "FIRST_LAYER": 1, "REP_DIM": 5, "ALPHA": 0.4, "REG_WEIGHT": 2.0}),
    ("CLIPLoRA", {"RANK": 3, "ALPHA": 0.5}),
    ("CLIPLoRA", {"RANK": 1, "ENCODER": "text"}),
    ("CLIPLoRA", {"ENCODER": "vision"}),
    ("PromptKD", {"PROMPT_DEPTH_VISION": LAYERS, "TEMPERATURE": 2.0, "TEACHER.TEMPLATES": "art of the {}."}),
    ("MMA", {"ADAPTER_START": 1, "ADAPTER_END": 2, "ADAPTER_DIM": 5, "ADAPTER_SCALE": 0.5, "TEXT_CTX_INIT": "art of"}),
]
NAMES = [" ".join([method, *(f"{key}={value}" for key, value in settings.items())]) for method, settings in CASES]
# One case a method in fp32 and for the ten steps, two where it can sample classes: the formulas are the same.
SOME = [*METHODS.items(), ("RPP", {**SHORT, "RESIDUAL": "query", "UPDATE_CLASS_NUM": 4})]
SOME += [(name, {"UPDATE_CLASS_NUM": 0 if METHODS[name].get("UPDATE_CLASS_NUM") else 4}) for name in SAMPLING]


@pytest.fixture
def double() -> Iterator[None]:
    """fp64 wherever nothing else is said."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("method", "settings"), CASES, ids=NAMES)
def test_equations_in_double(method: str, settings: dict, make: Make, double: None) -> None:
    compare(randomise(in_double(make(method, settings))), torch.float64, 1e-9, 1e-9)


@pytest.mark.parametrize(("method", "settings"), SOME)
def test_equations_in_single(method: str, settings: dict, make: Make) -> None:
    """A gradient of a query is small, being a difference of large numbers: rounding shows more."""
    compare(randomise(make(method, settings)), torch.float32, 1e-5, 3e-5)


def plain_curve(trainer: PromptTrainer, start: dict[str, Tensor], image: Tensor, label: Tensor) -> list[float]:
    """Losses of ten steps of SGD with momentum 0.9 and weight decay 5e-4: v <- 0.9 v + g + 5e-4 p, p <- p - lr v."""
    state = {key: value.clone() for key, value in start.items()}
    velocity = {key: torch.zeros_like(value) for key, value in state.items()}
    curve = []
    for _ in range(10):
        state = {key: value.detach().requires_grad_() for key, value in state.items()}
        terms = plain_terms(trainer, state, image, label)
        learned = {key: state[key] for key, p in learnable(trainer).items() if p.requires_grad}
        gradients = dict(zip(learned, plain_gradients(trainer, terms, list(learned.values()))))
        for key, gradient in gradients.items():
            velocity[key] = 0.9 * velocity[key] + gradient + 5e-4 * state[key].detach()
            state[key] = state[key].detach() - 0.02 * velocity[key]
        curve.append(float(sum(terms.values()).detach()))
    return curve


@pytest.mark.parametrize(("method", "settings"), SOME)
def test_ten_steps_from_a_published_checkpoint(method: str, settings: dict, make: Make, tmp_path: Path) -> None:
    trainer = make(method, settings)
    image, label = batch()
    start = {key: p.detach().clone() for key, p in learnable(randomise(trainer)).items()}
    folder = write_checkpoint(tmp_path / "published", trainer, start, epoch=5)
    trainer = make(method, settings)
    trainer.load_model(folder, epoch=5)
    torch.manual_seed(7)
    expected = plain_curve(trainer, start, image, label)
    torch.manual_seed(7)
    trainer.batch_idx, trainer.num_batches = 0, 11  # the schedule steps after the last batch only
    curve = [float(trainer.forward_backward({"img": image, "label": label})["loss"]) for _ in range(10)]
    assert curve[0] != curve[9]
    assert difference(torch.tensor(curve), torch.tensor(expected)) < 1e-4
