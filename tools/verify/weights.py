"""The backbone's weights: the file's hash, the shapes of its tensors, and what is in them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from clip.clip import OPENAI_MODELS, TINY, download, random_model
from clip.weights import misfits, openai_names, read_weights
from dassl.utils import sha256_of

from .expected import Expected
from .verdicts import OK, WRONG, Verdict, absent, verdict

LOGIT_SCALE = 100.0  # exp(logit_scale) of every model that OpenAI published: the limit of its training


def locate(backbone: str, given: str) -> Path:
    """The weights file: the one given, the one shipped, or the one in the cache, fetched if need be.

    ``FileNotFoundError``; ``ConnectionError`` if it cannot be fetched.
    """
    path = Path(given).expanduser() if given else TINY if backbone == "tiny" else Path(download(backbone, None))
    if not path.is_file():
        raise FileNotFoundError(f"No weights file at {path}")
    return path


def verify_weights(path: Path, expected: Expected) -> Iterator[Verdict]:
    found = sha256_of(str(path))
    if expected.sha256:
        yield verdict(
            f"SHA-256 of {path.name}",
            found,
            expected.sha256,
            "not the published file: a conversion of it, a broken download or other weights",
        )
    else:
        yield absent(f"SHA-256 of {path.name}", f"{found}; none is published of {expected.backbone or 'such a file'}")
    weights = openai_names(read_weights(path)[0])
    if expected.backbone and expected.backbone != "tiny":
        yield verify_shapes(weights, expected.backbone)
    yield verify_numbers(weights, expected.backbone)
    if expected.tensors:
        yield verify_tensors(weights, expected.tensors)


def verify_shapes(weights: Mapping[str, Tensor], backbone: str) -> Verdict:
    """Against the architecture that goes by the name."""
    own = {
        key: value
        for key, value in random_model(backbone).state_dict().items()
        if key in weights or not key.endswith("num_batches_tracked")
    }
    wanted = f"the {len(own)} tensors of {backbone}"
    return verdict("shapes", misfits(own, weights) or wanted, wanted, "the file is of another backbone (--backbone)")


def verify_numbers(weights: Mapping[str, Tensor], backbone: str) -> Verdict:
    """Finite everywhere; of OpenAI's models also the known temperature."""
    if broken := [key for key, value in weights.items() if not torch.isfinite(value.float()).all()]:
        return Verdict(WRONG, "numbers", f"not finite: {', '.join(broken[:4])}", "finite")
    scale = math.exp(weights["logit_scale"].float().item())
    if backbone in OPENAI_MODELS and abs(scale - LOGIT_SCALE) > 0.1:
        return Verdict(WRONG, "numbers", f"exp(logit_scale) {scale:.2f}", f"{LOGIT_SCALE:g}", "these are other weights")
    return Verdict(OK, "numbers", f"finite, exp(logit_scale) {scale:.2f}")


def verify_tensors(weights: Mapping[str, Tensor], known: Mapping[str, str]) -> Verdict:
    """Every tensor's digest: names those that have changed."""
    found = digests(weights)
    changed = sorted(key for key in known.keys() | found.keys() if found.get(key) != known.get(key))
    wanted = f"all {len(known)} as expected"
    return verdict("tensors", f"changed: {', '.join(changed[:4])} ({len(changed)})" if changed else wanted, wanted)


def digests(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Twelve digits of each tensor's shape and numbers, in fp32."""
    return {
        key: hashlib.sha256(
            f"{tuple(value.shape)}".encode() + value.float().contiguous().numpy().tobytes()
        ).hexdigest()[:12]
        for key, value in weights.items()
    }
