"""Image features of a frozen encoder on disk, ``DATALOADER.FEATURE_STORE``: computed once, whichever run wants them.

A folder per encoder, data set and view; in it files of some images each, a new one for those that no file has. They are
mapped into memory, so that only the rows that are wanted are read, but for a checksum when a file is opened.

Letters: N images, E joint width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dassl.utils import atomic_write


class FeatureStore:
    """Features of one encoder, data set and view, which ``facts`` tell apart from all others, below ``root``."""

    def __init__(self, root: str, facts: Mapping[str, object]) -> None:
        self.facts = json.dumps(facts, sort_keys=True)
        self.folder = Path(root).expanduser() / hashlib.sha256(self.facts.encode()).hexdigest()[:16]

    def features(self, keys: Sequence[int], encode: Callable[[list[int]], Tensor]) -> Tensor:
        """(N, E) of the images with these keys. ``encode`` gives those (n, E) of some places in the list, and is called
        with the places of all images that no file has. ValueError naming a file that is damaged or of something else.
        """
        parts = [self._read(path) for path in sorted(self.folder.glob("*.safetensors"))]
        known = {key for found, _ in parts for key in found.tolist()}
        if missing := [place for place, key in enumerate(keys) if key not in known]:
            parts.append(self._write(torch.tensor([keys[place] for place in missing]), encode(missing)))
        return gather(keys, parts)

    def _read(self, path: Path) -> tuple[Tensor, Tensor]:
        """Keys (n,) and features (n, E)."""
        try:
            with safe_open(path, framework="pt") as file:
                told, keys, features = file.metadata() or {}, file.get_tensor("keys"), file.get_tensor("features")
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: delete it, and its features are computed anew") from error
        if told.get("facts") != self.facts:
            raise ValueError(f"{path} is of another encoder, data set or view: it does not belong into this folder")
        if told.get("checksum") != checksum(keys, features):
            raise ValueError(f"{path} is damaged: delete it, and its features are computed anew")
        return keys, features

    def _write(self, keys: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        features = features.contiguous()
        told = {"facts": self.facts, "checksum": checksum(keys, features)}
        with atomic_write(str(self.folder / f"{checksum(keys)[:16]}.safetensors")) as file:
            file.write(save({"keys": keys, "features": features}, told))
        return keys, features


def gather(keys: Sequence[int], parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(N, E): of every key its features, which some part has."""
    where = {key: (number, row) for number, (own, _) in enumerate(parts) for row, key in enumerate(own.tolist())}
    found = torch.tensor([where[key] for key in keys])  # (N, 2): part, row in it
    out = parts[0][1].new_empty(len(keys), parts[0][1].shape[1])
    for number, (_, features) in enumerate(parts):
        here = found[:, 0] == number
        out[here] = features[found[here, 1]]
    return out


def checksum(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' types, shapes and bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())  # (bytes,)
    return digest.hexdigest()


def encoder_checksum(encoder: nn.Module) -> str:
    return checksum(*encoder.state_dict().values())


def image_key(path: str, *more: int) -> int:
    """A number that tells an image from others: by its path, and by size and time of its file where it is one."""
    try:
        stat = os.stat(path)
        more = (*more, stat.st_size, stat.st_mtime_ns)
    except OSError:  # rendered, or in an archive
        pass
    digest = hashlib.blake2b(f"{path} {more}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
