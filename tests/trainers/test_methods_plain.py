"""Each method against its equations in ``plain.py``: logits, loss, gradients, ten steps of SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.clip.small import LAYERS, difference
from trainers.base import PromptTrainer

from . import plain
from .family import write_checkpoint
from .world import CLASSNAMES, METHODS, Make, batch, in_double, learnable, randomise

PHRASE = "a photo of a"
Logits = Callable[[PromptTrainer, dict[str, Tensor], Tensor], Tensor]
Loss = Callable[[PromptTrainer, Tensor, Tensor, Tensor], Tensor]


def fixed_words(num_ctx: int) -> str:
    """What stays of "a photo of a" behind the context: everything from the length on."""
    return " ".join(PHRASE.split()[num_ctx:]) if num_ctx <= 4 else ""


def logits(trainer: PromptTrainer, state: dict[str, Tensor], image: Tensor) -> Tensor:
    """The plain logits of the trainer's method and settings, with the learnable tensors ``state``."""
    clip, chosen, method = trainer.model.clip, trainer.options, type(trainer).__name__
    if method in ("CoOp", "POMP", "CoCoOp"):
        ids = plain.class_ids(CLASSNAMES, trainer.num_ctx, position=chosen.get("CLASS_TOKEN_POSITION", "end"))
        return (plain.cocoop_logits if method == "CoCoOp" else plain.coop_logits)(clip, state, image, ids)
    length = {"MaPLe": "N_CTX", "VPT": ""}.get(method, "N_CTX_TEXT")
    length = chosen[length] if length and chosen.get("PROMPT_DEPTH_TEXT", 1) else 0
    ids = plain.class_ids(CLASSNAMES, length, fixed_words(length))
    functions = {
        "VPT": plain.ivlp_logits,
        "IVLP": plain.ivlp_logits,
        "MaPLe": partial(plain.maple_logits, unified=chosen.get("UNIFIED")),
        "RPP": partial(plain.rpp_logits, qkv=chosen.get("QKV"), residual=chosen.get("RESIDUAL")),
    }
    return functions[method](clip, state, image, ids)


def loss(trainer: PromptTrainer, found: Tensor, image: Tensor, label: Tensor, drawn: Tensor) -> Tensor:
    """The plain loss of the trainer's method and settings from its plain logits."""
    chosen, method = trainer.options, type(trainer).__name__
    correction = chosen.CORRECTION_LOG if chosen.get("LOCAL_CORRECTION") else "none"
    is_sampled = chosen.get("UPDATE_CLASS_NUM", 0) > 0
    total = plain.pomp_loss(found, label, drawn, correction) if is_sampled else plain.cross_entropy(found, label)
    if method == "RPP" and chosen.LAMBDA:
        teacher = plain.zeroshot_logits(trainer.model.clip, image, CLASSNAMES, [chosen.TEACHER.TEMPLATES])
        if is_sampled:
            teacher, found = (plain.sampled(z, label, drawn)[0] for z in (teacher, found))
        total = total + chosen.LAMBDA * plain.kl_divergence(teacher, found, chosen.TEMPERATURE)
    return total


def draw(trainer: PromptTrainer) -> Tensor:
    """The classes that a step draws first of all."""
    return torch.randperm(len(CLASSNAMES))[: trainer.options.get("UPDATE_CLASS_NUM", 0) - 1]


def compare(trainer: PromptTrainer, dtype: torch.dtype, tolerance: float, gradient_tolerance: float) -> None:
    """Logits, loss, and the gradient of every learnable tensor; frozen ones must have none in the equations either."""
    image, label = batch(dtype=dtype)
    learned = learnable(trainer)
    state = {key: p.detach().clone().requires_grad_() for key, p in learned.items()}
    expected = logits(trainer, state, image)
    torch.manual_seed(5)
    expected_loss = loss(trainer, expected, image, label, draw(trainer))
    gradients = torch.autograd.grad(expected_loss, list(state.values()), allow_unused=True)
    torch.manual_seed(5)
    terms = trainer.compute_loss(image, label)
    found_loss = sum(term for name, term in terms.items() if name.endswith("_loss"))
    found_loss.backward()
    assert difference(trainer.model(image), expected) < tolerance
    assert difference(found_loss, expected_loss) < tolerance
    for (key, parameter), gradient in zip(learned.items(), gradients):
        if parameter.requires_grad:
            assert gradient.abs().max() > 0, key
            assert difference(parameter.grad, gradient) < gradient_tolerance, key
        else:
            assert parameter.grad is None, key
            assert gradient is None or not gradient.any(), key


CASES = [
    ("CoOp", {"N_CTX": 1}),
    ("CoOp", {"N_CTX": 4, "CLASS_TOKEN_POSITION": "middle"}),
    ("CoOp", {"N_CTX": 3, "CLASS_TOKEN_POSITION": "front"}),
    ("CoOp", {"N_CTX": 5, "CSC": True}),
    ("CoOp", {"N_CTX": 3, "CSC": True, "CLASS_TOKEN_POSITION": "middle"}),
    ("CoOp", {"N_CTX": 2, "CSC": True, "CLASS_TOKEN_POSITION": "front"}),
    ("CoOp", {"CTX_INIT": PHRASE}),
    ("CoCoOp", {"N_CTX": 1}),
    ("CoCoOp", {"CTX_INIT": PHRASE}),
    ("VPT", {"N_CTX_VISION": 1, "PROMPT_DEPTH_VISION": 1}),
    ("VPT", {"N_CTX_VISION": 4, "PROMPT_DEPTH_VISION": LAYERS}),
    ("IVLP", {"N_CTX_TEXT": 1, "N_CTX_VISION": 1, "PROMPT_DEPTH_TEXT": 1, "PROMPT_DEPTH_VISION": 1}),
    ("IVLP", {"N_CTX_TEXT": 4, "N_CTX_VISION": 2, "PROMPT_DEPTH_TEXT": LAYERS, "PROMPT_DEPTH_VISION": LAYERS}),
    ("IVLP", {"N_CTX_TEXT": 6, "PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 2}),
    ("IVLP", {"N_CTX_TEXT": 2, "PROMPT_DEPTH_TEXT": LAYERS, "PROMPT_DEPTH_VISION": 0}),
    ("IVLP", {"PROMPT_DEPTH_TEXT": 0, "N_CTX_VISION": 2, "PROMPT_DEPTH_VISION": 2}),
    ("MaPLe", {"N_CTX": 1, "PROMPT_DEPTH": 1}),
    ("MaPLe", {"N_CTX": 2, "PROMPT_DEPTH": 2}),
    ("MaPLe", {"N_CTX": 5, "PROMPT_DEPTH": LAYERS}),
    ("MaPLe", {"N_CTX": 3, "PROMPT_DEPTH": LAYERS, "UNIFIED": True}),
    ("MaPLe", {"N_CTX": 3, "PROMPT_DEPTH": 1, "UNIFIED": True}),
    *[("POMP", {"UPDATE_CLASS_NUM": k, "CORRECTION_LOG": log}) for k in (2, 4, 7) for log in ("log10", "ln")],
    ("POMP", {"UPDATE_CLASS_NUM": 4, "LOCAL_CORRECTION": False}),
    ("POMP", {"UPDATE_CLASS_NUM": 4, "N_CTX": 2, "CSC": True}),
    ("POMP", {"UPDATE_CLASS_NUM": 4, "N_CTX": 4, "CLASS_TOKEN_POSITION": "middle"}),
    *[
        (
            "RPP",
            {
                "QKV": qkv,
                "RESIDUAL": residual,
                "N_CTX_TEXT": 2,
                "N_CTX_VISION": 3,
                "PROMPT_DEPTH_TEXT": depth,
                "PROMPT_DEPTH_VISION": depth,
            },
        )
        for qkv in ("qkv", "kv", "shared")
        for residual in ("carry", "query")
        for depth in (1, 2, LAYERS)
    ],
    ("RPP", {"N_CTX_TEXT": 1, "N_CTX_VISION": 1, "UPDATE_CLASS_NUM": 4, "LAMBDA": 0.7, "TEMPERATURE": 2.0}),
    ("RPP", {"N_CTX_TEXT": 5, "UPDATE_CLASS_NUM": 4, "CORRECTION_LOG": "ln", "RESIDUAL": "query"}),
    ("RPP", {"UPDATE_CLASS_NUM": 7, "LOCAL_CORRECTION": False, "TEACHER.TEMPLATES": "art of the {}."}),
    ("RPP", {"LAMBDA": 0.0, "PROMPT_DEPTH_TEXT": 0}),
    ("RPP", {"TEMPERATURE": 0.5, "PROMPT_DEPTH_VISION": 0}),
]
NAMES = [" ".join([method, *(f"{key}={value}" for key, value in settings.items())]) for method, settings in CASES]
# One case a method in fp32 and for the ten steps: the formulas are the same.
SOME = [*METHODS.items(), ("RPP", {**METHODS["RPP"], "RESIDUAL": "query", "UPDATE_CLASS_NUM": 4})]


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
        found = loss(trainer, logits(trainer, state, image), image, label, draw(trainer))
        learned = {key: state[key] for key, p in learnable(trainer).items() if p.requires_grad}
        gradients = dict(zip(learned, torch.autograd.grad(found, list(learned.values()))))
        for key, gradient in gradients.items():
            velocity[key] = 0.9 * velocity[key] + gradient + 5e-4 * state[key].detach()
            state[key] = state[key].detach() - 0.02 * velocity[key]
        curve.append(float(found.detach()))
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
