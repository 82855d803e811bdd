"""CLIP with prompts as an argument: ``clip.load``, ``clip.tokenize``, ``clip.available_models`` as people know them."""

from .clip import available_models, load, tokenize
from .model import CLIP
from .prompts import LayerPrompt, PromptPlan
from .text import Texts

__all__ = ["CLIP", "LayerPrompt", "PromptPlan", "Texts", "available_models", "load", "tokenize"]
