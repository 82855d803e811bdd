"""OpenAI's public functions: ``load``, ``tokenize``, ``available_models``.

A backbone is named as OpenAI does (``ViT-B/16``, ``RN50``), as open_clip does with its pretrained tag
(``ViT-B-16:laion2b_s34b_b88k``), ``tiny`` (shipped with this code), or given as a weights file. ``random:`` in front of
any of these is a model of its shapes with random weights, for measurements: nothing is downloaded.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from open_clip.pretrained import download_pretrained
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from .model import CLIP
from .text import CONTEXT_LENGTH, token_ids
from .weights import build_model, read_weights, set_precision

__all__ = ["available_models", "load", "load_model", "tokenize"]

OPENAI_MODELS = {  # our name -> open_clip's
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
RANDOM = "random:"
TINY = Path(__file__).with_name("tiny_clip.safetensors")
PIXEL_MEAN, PIXEL_STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
# What a model configuration of open_clip may contain to be the architecture of clip/model.py.
VISION_KEYS = {"image_size", "layers", "width", "head_width", "patch_size"}
TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers"}


def available_models() -> list[str]:
    """Backbones that ``load`` knows by a short name; open_clip's ViTs go by ``name:tag``."""
    return ["tiny", *OPENAI_MODELS]


def load(
    name: str,
    device: str | torch.device | None = None,
    jit: bool = False,
    download_root: str | None = None,
) -> tuple[CLIP, Callable[[Image.Image], Tensor]]:
    """Model and image transform, as in OpenAI's package: fp16 weights on a GPU, fp32 on a CPU."""
    if jit:
        raise ValueError(
            "jit=True is not supported: the model is plain PyTorch; use torch.compile or torch.export on it"
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = load_model(name, download_root=download_root)
    set_precision(model, "fp16" if device.type == "cuda" else "fp32")
    return model.to(device), image_transform(model.visual.input_resolution)


def load_model(name: str = "", path: str = "", download_root: str | None = None) -> CLIP:
    """A CLIP in fp32 on the CPU, by name or from the weights file at ``path``.

    With a path the name may add what the file does not say: ``ViT-B-16`` or ``name:tag`` (open_clip) for GELU and head
    width; otherwise QuickGELU and 64 numbers a head, as in OpenAI's models. ``name`` may be a path as well.
    """
    source = (name, path)
    if name.startswith(RANDOM):
        model = random_model(name.removeprefix(RANDOM), path)
        model.source = source
        return model
    if not path and Path(name).is_file():
        name, path = "", name
    path = path or (str(TINY) if name == "tiny" else download(name, download_root))
    weights, metadata = read_weights(path)
    model = build_model(weights, **(architecture(*split_tag(name)) if is_open_clip(name) else options(metadata)))
    model.source = source
    return model


def load_frozen(name: str, path: str, precision: str) -> CLIP:
    """A backbone for prompts: in evaluation mode, without gradients, in the given precision (``set_precision``)."""
    return set_precision(load_model(name, path), precision).eval().requires_grad_(False)


def random_model(name: str, path: str = "") -> CLIP:
    """The shapes of a backbone, or of a weights file, and random weights; it knows all words."""
    known, tag = open_clip_name(name)
    if path or known not in open_clip.list_models():
        model = load_model(name, path)
        model.initialize_parameters()
        model.known_tokens = None
        return model
    more = architecture(known, tag) if is_open_clip(name) else {}
    config = open_clip.get_model_config(known)
    vision, text = config["vision_cfg"], config["text_cfg"]
    layers = vision["layers"] if isinstance(vision["layers"], int) else tuple(vision["layers"])
    sizes = {"vision_layers": layers, "vision_width": vision["width"], "vision_patch_size": vision["patch_size"]}
    sizes |= {f"transformer_{key}": text[key] for key in ("width", "heads", "layers")}
    sizes |= {key: text[key] for key in ("context_length", "vocab_size")}
    model = CLIP(config["embed_dim"], vision["image_size"], **(sizes | more))
    return model.eval()


def options(metadata: dict[str, str]) -> dict[str, object]:
    """Architecture options that our own safetensors files carry in their metadata."""
    numbers = {key: int(metadata[key]) for key in ("vision_heads", "transformer_heads") if key in metadata}
    return numbers | ({"activation": metadata["activation"]} if "activation" in metadata else {})


def split_tag(name: str) -> tuple[str, str]:
    model, _, tag = name.partition(":")
    return model, tag


def open_clip_name(name: str) -> tuple[str, str]:
    """open_clip's name and pretrained tag of a backbone."""
    return (OPENAI_MODELS[name], "openai") if name in OPENAI_MODELS else split_tag(name)


def published_sha256(name: str) -> str:
    """Of a backbone's weights file: OpenAI's addresses have it as a folder. "" where none is published."""
    model, tag = open_clip_name(name)
    address = open_clip.get_pretrained_cfg(model, tag).get("url", "") if tag else ""
    found = re.search(r"/([0-9a-f]{64})/", address)
    return found.group(1) if found else ""


def is_open_clip(name: str) -> bool:
    return split_tag(name)[0] in open_clip.list_models() and name not in OPENAI_MODELS


def architecture(model: str, tag: str) -> dict[str, object]:
    """Options of one of open_clip's models; ValueError if it is not CLIP's plain ViT with CLIP's tokenizer."""
    config = open_clip.get_model_config(model)
    vision, text = config["vision_cfg"], config["text_cfg"]
    foreign = {k for k in vision if k not in VISION_KEYS} | {k for k in text if k not in TEXT_KEYS}
    if config.get("custom_text"):
        foreign.add("custom_text")
    if not isinstance(vision.get("layers", 0), int):
        foreign.add(f"vision layers {vision['layers']}")
    if foreign:
        raise ValueError(f"open_clip's {model} is not a plain CLIP ViT ({', '.join(sorted(foreign))})")
    pretrained = open_clip.get_pretrained_cfg(model, tag) if tag else {}
    quick = config.get("quick_gelu", False) or pretrained.get("quick_gelu", False)
    return {
        "activation": "quick_gelu" if quick else "gelu",
        "vision_heads": vision["width"] // vision.get("head_width", 64),
        "transformer_heads": text["heads"],
    }


def download(name: str, root: str | None) -> str:
    """Path of a model's weights file, fetched into the cache if need be (progress shown, SHA-256 checked if published).

    Raises ValueError for an unknown name, ConnectionError if it cannot be fetched.
    """
    model, tag = open_clip_name(name)
    config = open_clip.get_pretrained_cfg(model, tag) if tag else {}
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(model)
        known = [f"{model}:{t}" for t in tags] or [*available_models(), *open_clip.list_models()]
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.3) or known[:5]
        raise ValueError(
            f"Unknown backbone {name!r}. Nearest: {', '.join(near)}; or give a file by MODEL.BACKBONE.PATH"
        )
    try:
        return download_pretrained(config, prefer_hf_hub=not config.get("url"), cache_dir=root)
    except Exception as error:  # whatever the HTTP client or the hub raises
        source = config.get("url") or config.get("hf_hub")
        raise ConnectionError(
            f"Could not download {name} from {source} ({error}). Fetch the file by hand and set MODEL.BACKBONE.PATH to"
            " it, or use MODEL.BACKBONE.NAME tiny, which needs no download"
        ) from error


def image_transform(size: int) -> Callable[[Image.Image], Tensor]:
    """CLIP's own: shorter edge to ``size`` (bicubic), centre crop, normalise; PIL image -> (3, size, size)."""
    return v2.Compose(
        [
            v2.Resize(size, v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(size),
            v2.RGB(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(PIXEL_MEAN, PIXEL_STD),
        ]
    )


def tokenize(texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH, truncate: bool = False) -> Tensor:
    """(N, context_length) int token ids, SOS and EOS included, 0 behind.

    Raises RuntimeError for a text that is too long, unless ``truncate`` cuts it (EOS stays last).
    """
    texts = [texts] if isinstance(texts, str) else texts
    result = torch.zeros(len(texts), context_length, dtype=torch.int)
    for row, text in zip(result, texts):
        ids = token_ids(text)
        if len(ids) > context_length:
            if not truncate:
                raise RuntimeError(
                    f"Input {text!r} is too long for context length {context_length} ({len(ids)} tokens)"
                )
            ids = [*ids[: context_length - 1], ids[-1]]
        row[: len(ids)] = torch.tensor(ids)
    return result
