"""Image features computed once, for text-only methods on deterministic views (``DATALOADER.CACHE_FEATURES``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dassl.config import CfgNode
from dassl.data.datasets import Datum

from .prompted_clip import PromptedCLIP

DETERMINISTIC = {"normalize", "center_crop", "instance_norm"}


class FeatureDataset(Dataset):
    """Items whose ``img`` is the unit-norm image feature (E,), which ``PromptedCLIP`` takes in place of an image."""

    def __init__(self, items: Sequence[Datum], features: Tensor):
        self.items, self.features = items, features

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, object]:
        item = self.items[index]
        return {"img": self.features[index], "label": item.label, "impath": item.impath, "index": index}


def check_cacheable(cfg: CfgNode, model: PromptedCLIP) -> None:
    """ValueError if features of training images would not stay what they are."""
    if random := set(cfg.INPUT.TRANSFORMS) - DETERMINISTIC:
        raise ValueError(
            f"DATALOADER.CACHE_FEATURES needs the same view of an image in every epoch, but INPUT.TRANSFORMS has"
            f" {', '.join(sorted(random))}; use --transforms normalize, or switch the cache off"
        )
    if cfg.DATALOADER.SKIP_BROKEN:
        raise ValueError("DATALOADER.CACHE_FEATURES needs every image, so it does not go with DATALOADER.SKIP_BROKEN")
    if (views := cfg.DATALOADER.K_TRANSFORMS) > 1:
        raise ValueError(
            f"DATALOADER.CACHE_FEATURES keeps one view of an image, but DATALOADER.K_TRANSFORMS is {views}"
        )
    if not getattr(model.learner, "conditional", False) and model.learner().vision is not None:
        raise ValueError(
            "DATALOADER.CACHE_FEATURES is for text-only methods; this one learns prompts of the image encoder"
        )


@torch.no_grad()
def cached_features(loader: DataLoader, model: PromptedCLIP, device: torch.device) -> DataLoader:
    """A loader of the same batches in the same order, with features for images."""
    once = DataLoader(loader.dataset, loader.batch_size, num_workers=loader.num_workers, collate_fn=loader.collate_fn)
    batches = tqdm(once, desc="image features", leave=False, disable=None)
    features = torch.cat([model.encode_image(batch["img"].to(device)).cpu() for batch in batches])
    dataset = FeatureDataset(loader.dataset.data_source, features)
    return DataLoader(
        dataset,
        loader.batch_size,
        sampler=loader.sampler,
        drop_last=loader.drop_last,
        generator=loader.generator,
        pin_memory=loader.pin_memory,
    )
