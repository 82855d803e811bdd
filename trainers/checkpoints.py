"""Prompts in files: the field's key names, and loading that says what does not fit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from clip.weights import misfits

# What the family's checkpoints hold besides prompts: buffers that depend on the class names, and the frozen CLIP.
CLASS_BUFFERS = ("token_prefix", "token_suffix")
FROZEN_PREFIXES = ("image_encoder.", "text_encoder.", "logit_scale", "prompt_learner.ZS_image_encoder.")


def rename_state(module: nn.Module, names: Mapping[str, str]) -> None:
    """Let the module's state dict carry the published keys, when saved and when loaded."""
    if not names:
        return

    def on_save(module: nn.Module, state: dict, prefix: str, metadata: object) -> None:
        for ours, theirs in names.items():
            state[prefix + theirs] = state.pop(prefix + ours)

    def on_load(module: nn.Module, state: dict, prefix: str, *rest: object) -> None:
        for ours, theirs in names.items():
            if prefix + theirs in state:
                state[prefix + ours] = state.pop(prefix + theirs)

    module.register_state_dict_post_hook(on_save)
    module.register_load_state_dict_pre_hook(on_load)


def prompts_only(state: Mapping[str, Tensor], learner: nn.Module) -> dict[str, Tensor]:
    """A checkpoint's entries without class-dependent buffers and without the frozen CLIP of the family's files."""
    own = learner.state_dict()
    state = {key.removeprefix("module."): value for key, value in state.items()}
    return {
        key: value
        for key, value in state.items()
        if key in own or not (key.endswith(CLASS_BUFFERS) or (key.startswith(FROZEN_PREFIXES) and "VPT" not in key))
    }


def load_exactly(learner: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    """Load every tensor of the learner; ValueError naming keys that are missing, surplus or of another shape."""
    if found := misfits(learner.state_dict(), weights):
        raise ValueError(f"The checkpoint {path} does not fit this method and its settings ({found})")
    learner.load_state_dict({key: value.float() for key, value in weights.items()})
