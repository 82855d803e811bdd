"""MMA: zero-shot CLIP without its last maps; the gradients of the authors' scaling layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clip import CLIP
from tests.clip.small import difference
from trainers import MMA

from .family import class_buffers
from .world import CLASSNAMES, Make, batch, randomise


def test_maps_that_make_nothing_are_clip(make: Make) -> None:
    """Bit for bit."""
    model, image = randomise(make("MMA")).model, batch()[0]
    with torch.no_grad():
        expected = model.cosine_logits(model.encode_image(image), model.encode_text(None))
        assert not torch.equal(model(image), expected)
        for adapters in (model.method.text_adapter, model.method.visual_adapter):
            for own in adapters.values():
                for tensor in own.up.parameters():
                    tensor.zero_()
        for mode in (True, False):
            assert torch.equal(model.train(mode)(image), expected)


class Scaled(torch.autograd.Function):
    """x as it is; its gradient times a number."""

    @staticmethod
    def forward(ctx: object, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def test_gradients_are_those_of_scaling_layers(model32: CLIP) -> None:
    """As the authors have them: before the adapter by the scale, behind it by 1 / scale. Two layers, one on another."""
    clip, scale = model32.double(), 0.01
    method = MMA(clip, MMA.Options(ADAPTER_START=1, ADAPTER_END=2, ADAPTER_SCALE=scale)).double()
    blocks, x = clip.visual.transformer.resblocks, torch.randn(2, 5, clip.visual.width, dtype=torch.float64)
    x.requires_grad_()
    plan = method.prompts().vision

    def ours() -> Tensor:
        y = x
        for i in range(2):
            y = blocks[i](y, change=plan.changes[i])
        return y

    def theirs() -> Tensor:
        y = x
        for i in range(2):
            own, shared = method.visual_adapter[str(i + 1)], method.shared_adapter[str(i + 1)]
            added = own.up(F.relu(shared(F.relu(own.down(blocks[i].ln_1(Scaled.apply(y, scale)))))))
            y = blocks[i](y) + Scaled.apply(added * scale, 1 / scale)
        return y

    learned = [x, *method.visual_adapter.parameters(), *method.shared_adapter.parameters()]
    found, expected = (torch.autograd.grad(run().square().sum(), learned) for run in (ours, theirs))
    assert difference(ours(), theirs()) < 1e-12
    assert max(difference(a, b) for a, b in zip(found, expected)) < 1e-9


def test_the_start(make: Make) -> None:
    """N(0, 2 / what a map makes), no biases; the shared maps are no encoder's own."""
    method = make("MMA", {"ADAPTER_DIM": 64}).model.method
    for name, tensor in method.named_parameters():
        if name.endswith("bias"):
            assert not tensor.any()
        else:
            assert float(tensor.detach().std()) == pytest.approx((2 / len(tensor)) ** 0.5, rel=0.1)
    assert {*method.shared_adapter} == {*method.text_adapter} == {"2", "3"}


def test_buffers_of_published_files_are_left_out(make: Make, tmp_path: Path) -> None:
    trainer = make("MMA")
    content = {**trainer.model.method.state_dict(), **class_buffers(trainer, len(CLASSNAMES))}
    torch.save({"state_dict": content, "epoch": 5}, tmp_path / "model.pth.tar-5")
    trainer.load_prompts(tmp_path / "model.pth.tar-5")
    assert trainer.epochs_done == 5


def test_layers_that_are_not_there(make: Make) -> None:
    with pytest.raises(ValueError, match=r"TRAINER.MMA: prompt depth 4 exceeds the 3 layers of the text encoder"):
        make("MMA", {"ADAPTER_END": 4})
    with pytest.raises(ValueError, match=r"TRAINER.MMA: ADAPTER_START 3 lies behind ADAPTER_END 2"):
        make("MMA", {"ADAPTER_START": 3, "ADAPTER_END": 2})
