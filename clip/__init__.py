"""CLIP with prompts as an argument: ``clip.load``, ``clip.tokenize``, ``clip.available_models`` as people know them."""

import sys
from importlib.metadata import distributions

from .changes import Adapter, LayerChange, LowRank
from .clip import available_models, load, tokenize
from .model import CLIP, QuickGELU
from .prompts import LayerPrompt, PerClass, PerImage, PromptPlan
from .text import Texts

__all__ = [
    "CLIP",
    "Adapter",
    "LayerChange",
    "LayerPrompt",
    "LowRank",
    "PerClass",
    "PerImage",
    "PromptPlan",
    "QuickGELU",
    "Texts",
    "available_models",
    "load",
    "tokenize",
]

# The names of those that are known: to ask for the owner of a module would read the files of everything installed.
for _other in (found for name in ("clip", "clip-anytorch", "openai-clip") for found in distributions(name=name)):
    sys.stderr.write(
        f"clip: imported from {__path__[0]}, but {_other.name} {_other.version} is installed too and brings a package"
        " of this name; only one of them can be imported: give this project an environment of its own\n"
    )
