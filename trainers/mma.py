"""MMA: Multi-Modal Adapter for Vision-Language Models (Yang et al., CVPR 2024).

Letters: D width of an encoder, r width of the adapters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from clip import CLIP, Adapter, LayerChange, PromptPlan

from .contexts import check_depths
from .method import Context, Method, Needs, Prompts, option

CLASS_BUFFERS = ("token_embedding", "tokenized_prompts")  # in the authors' files


class MMA(Method):
    """Y + SCALE W3 relu(S relu(W1 LN1(X) + b1) + s) + b3 in place of a layer's output Y, X being its input; S and s are
    the same for both encoders."""

    folder = "adapter_learner"

    @dataclass(frozen=True)
    class Options(Method.Options):
        ADAPTER_START: int = option(5, least=1)  # the first layer with adapters, counted from 1
        ADAPTER_END: int = option(12, least=1)  # and the last
        ADAPTER_DIM: int = option(32, least=1)
        ADAPTER_SCALE: float = option(0.001, above=0)
        TEXT_CTX_INIT: str = "a photo of a"  # words in front of the class name

        def check(self, where: str) -> None:
            if self.ADAPTER_START > self.ADAPTER_END:
                start, end = self.ADAPTER_START, self.ADAPTER_END
                raise ValueError(f"{where}: ADAPTER_START {start} lies behind ADAPTER_END {end}")

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        check_depths(self.section(), clip, self.options.ADAPTER_END, self.options.ADAPTER_END)
        self.context, dim = Context(0, self.options.TEXT_CTX_INIT), self.options.ADAPTER_DIM
        layers = range(self.options.ADAPTER_START, self.options.ADAPTER_END + 1)
        self.text_adapter = nn.ModuleDict({str(n): bottleneck(clip.transformer.width, dim) for n in layers})
        self.visual_adapter = nn.ModuleDict({str(n): bottleneck(clip.visual.width, dim) for n in layers})
        self.shared_adapter = nn.ModuleDict({str(n): nn.Sequential(linear(dim, dim)) for n in layers})

    @classmethod
    def needs(cls, options: Options) -> Needs:
        return Needs(images=True)

    def prompts(self) -> Prompts:
        return Prompts(self.plan(self.text_adapter), self.plan(self.visual_adapter))

    def plan(self, adapters: nn.ModuleDict) -> PromptPlan:
        changes, scale = {}, self.options.ADAPTER_SCALE
        for number, own in adapters.items():
            maps = (own.down[0], self.shared_adapter[number][0], own.up)
            pairs = tuple((learning_as_if_1(one.weight, scale), learning_as_if_1(one.bias, scale)) for one in maps)
            changes[int(number) - 1] = LayerChange(added=Adapter(pairs, scale))
        return PromptPlan(changes=changes, made_of=(*adapters.parameters(), *self.shared_adapter.parameters()))

    def adopt(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {key: value for key, value in state.items() if key not in CLASS_BUFFERS}


def bottleneck(width: int, dim: int) -> nn.Sequential:
    """Down, to which the shared map and a ReLU behind it belong, and up; under the names of the authors' files."""
    return nn.Sequential(OrderedDict(down=nn.Sequential(linear(width, dim)), up=linear(dim, width)))


def linear(before: int, after: int) -> nn.Linear:
    """He's start for what the map makes (fan out), without a bias."""
    made = nn.Linear(before, after)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(made.bias)
    return made


def learning_as_if_1(parameter: Tensor, scale: float) -> Tensor:
    """The parameter itself, but with a gradient 1 / scale as large: that which it would have at a scale of 1."""
    moved = parameter / scale
    return parameter.detach() + (moved - moved.detach())
