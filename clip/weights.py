"""From a weights file to a model: read, recognise, build, load strictly; and the only place that sets precision."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .archive import check_size, read_torchscript
from .model import CLIP

VOCABULARY_SIZE = 49408
# Entries of OpenAI's archives that are numbers, not weights; open_clip's buffer of the causal mask.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")
PRECISIONS = ("fp32", "fp16", "bf16", "amp", "amp_bf16")
MATRICES = ("in_proj_weight", "in_proj_bias", "proj", "text_projection")  # in half precision, besides Linear and Conv2d


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State dict and metadata of a TorchScript archive, a pickled state dict, an open_clip or a safetensors file.

    Nothing in a file is executed: pickles are read with ``weights_only``, archives by ``clip.archive``. Raises
    FileNotFoundError or ValueError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        if is_torchscript(path):
            return read_torchscript(path), {}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable weights file (truncated?): {one_line(error)}") from error
    except Exception as error:  # pickle.UnpicklingError and what its opcodes raise
        raise ValueError(f"{path} holds more than tensors and was not loaded: {one_line(error)}") from error
    content = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not all(isinstance(t, Tensor) for t in content.values()):
        raise ValueError(f"{path} holds no state dict (names with tensors)")
    if virtual := [key for key, tensor in content.items() if not is_stored(tensor)]:
        raise ValueError(f"{path} holds {len(virtual)} tensors whose numbers are not all in the file: {virtual[0]}")
    return dict(content), {}


def is_stored(tensor: Tensor) -> bool:
    """Whether a tensor is dense and has memory for every number: a few bytes can claim any shape otherwise."""
    is_dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return is_dense and tensor.nbytes <= tensor.untyped_storage().nbytes()


def one_line(error: Exception) -> str:
    """What went wrong, without the advice that torch appends."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive; ValueError if it is an archive of any kind that unpacks to far more."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        check_size(archive, path.stat().st_size)
        return any("/code/" in name for name in archive.namelist())


def openai_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's key names: without a wrapper's ``module.`` and open_clip's ``text.``, without what is no weight."""
    keys = {key: key.removeprefix("module.").removeprefix("text.") for key in weights}
    return {new: weights[old] for old, new in keys.items() if new not in NOT_WEIGHTS}


def infer_sizes(weights: Mapping[str, Tensor]) -> dict[str, object]:
    """Constructor arguments of ``CLIP`` from the shapes of a state dict."""
    missing = {"visual.conv1.weight", "text_projection", "positional_embedding", "ln_final.weight"} - weights.keys()
    if missing:
        raise ValueError(f"Not a CLIP of the supported architecture: no {', '.join(sorted(missing))}")

    def count(pattern: str) -> int:
        return len({m.group(1) for key in weights if (m := re.match(pattern, key))})

    if "visual.proj" in weights:
        width, _, patch, _ = weights["visual.conv1.weight"].shape
        grid = round((weights["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        layers: int | tuple[int, ...] = count(r"visual\.transformer\.resblocks\.(\d+)\.")
        resolution = patch * grid
    else:
        layers = tuple(count(rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
        width, patch = weights["visual.layer1.0.conv1.weight"].shape[0], None
        resolution = 32 * round((weights["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    text_width = weights["ln_final.weight"].shape[0]
    return {
        "embed_dim": weights["text_projection"].shape[1],
        "image_resolution": resolution,
        "vision_layers": layers,
        "vision_width": width,
        "vision_patch_size": patch,
        "context_length": weights["positional_embedding"].shape[0],
        "vocab_size": VOCABULARY_SIZE if "token_embedding.ids" in weights else len(weights["token_embedding.weight"]),
        "transformer_width": text_width,
        "transformer_heads": text_width // 64,
        "transformer_layers": count(r"transformer\.resblocks\.(\d+)\."),
    }


def build_model(weights: Mapping[str, Tensor], **overrides: object) -> CLIP:
    """A CLIP in fp32 and eval mode with these weights.

    overrides: what shapes do not tell: ``activation`` (quick_gelu or gelu), ``vision_heads``, ``transformer_heads``.
    Raises ValueError naming keys that are missing, surplus or of another shape.
    """
    weights = openai_names(weights)
    with torch.device("meta"):  # no random weights that would be overwritten at once
        model = CLIP(**{**infer_sizes(weights), **overrides})
    if (ids := weights.pop("token_embedding.ids", None)) is not None:
        rows = weights["token_embedding.weight"].float()
        weights["token_embedding.weight"] = rows.new_zeros(model.vocab_size, rows.shape[1]).index_copy(
            0, ids.long(), rows
        )
        model.known_tokens = torch.zeros(model.vocab_size, dtype=torch.bool).index_fill(0, ids.long(), True)
    load_strictly(model, weights)
    return model.eval()


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    needed = {key: value for key, value in own.items() if key in weights or not key.endswith("num_batches_tracked")}
    if found := misfits(needed, weights):
        raise ValueError(f"The weights do not fit CLIP's architecture ({found})")
    copies = {key: value.to(own[key].dtype, copy=True) for key, value in weights.items()}
    counters = {key: torch.zeros_like(value, device="cpu") for key, value in own.items() if key not in weights}
    model.load_state_dict({**copies, **counters}, assign=True)


def misfits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """What keeps ``weights`` from being loaded into a state dict with the tensors ``own``; empty if nothing does."""
    wrong = {
        "missing": [key for key in own if key not in weights],
        "surplus": [key for key in weights if key not in own],
        "of another shape": [
            f"{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
            for key, value in own.items()
            if key in weights and weights[key].shape != value.shape
        ],
    }
    return "; ".join(f"{len(keys)} {what}: {', '.join(keys[:4])}" for what, keys in wrong.items() if keys)


def set_precision(model: CLIP, precision: str) -> CLIP:
    """fp32, amp and amp_bf16: all weights fp32 (the classifier adds autocast). fp16, bf16: matrices in half precision,
    norms, embeddings and ``logit_scale`` in fp32, as OpenAI's files are."""
    if precision not in PRECISIONS:
        raise ValueError(f"Precision must be one of {', '.join(PRECISIONS)}, but got {precision!r}")
    model.float()
    if precision not in ("fp16", "bf16"):
        return model
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Conv2d | nn.Linear) or name in MATRICES:
                parameter.data = parameter.data.to(dtype)
    return model
