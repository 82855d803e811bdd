"""Features of the frozen image encoder: kept for training (``DATALOADER.CACHE_FEATURES``), or of whole lists of images.

Letters: N images, V views of each, B images of a batch, C classes, E joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from dassl.config import CfgNode
from dassl.data import DatasetWrapper
from dassl.data.datasets import DatasetBase, Datum
from dassl.data.transforms import AT_TEST, build_transform
from dassl.ranks import current
from dassl.utils import derive_seed, log

from .method import Needs
from .prompted_clip import PromptedCLIP, at_least_fp32, unit
from .store import FeatureStore, encoder_checksum, image_key

DETERMINISTIC = {"normalize", "center_crop", "instance_norm"}


class ImageSets:
    """The lists of images of a run as features, for methods that fit whole lists (``Data`` in ``method.py``)."""

    def __init__(self, cfg: CfgNode, dataset: DatasetBase, classifier: PromptedCLIP, seed: int) -> None:
        self.cfg, self.classifier, self.seed = cfg, classifier, seed
        self.classnames = getattr(dataset, "all_classnames", ()) or dataset.classnames
        self.lists = {"train": dataset.train_x, "val": dataset.val, "test": dataset.test}
        self.store = "" if cfg.DATALOADER.SKIP_BROKEN else cfg.DATALOADER.FEATURE_STORE
        if self.store != cfg.DATALOADER.FEATURE_STORE:
            log.info("Note: DATALOADER.FEATURE_STORE needs every image: not used with DATALOADER.SKIP_BROKEN")

    def features(self, split: str, passes: int = 1) -> tuple[Tensor, Tensor]:
        """Raw features (passes, N, E) and labels (N,) on the device.

        One pass sees images as a test does; several see the training images under augmentations that the seed decides.
        """
        items = self.lists[split]
        if not items:
            raise ValueError(f"{self.cfg.DATASET.NAME} has no {split} images, which this method needs")
        if split == "val" and items is self.lists["test"]:
            raise ValueError(
                f"{self.cfg.DATASET.NAME} has its test images as validation images, and nothing may be chosen on these:"
                " hold training images out (DATASET.HELD_OUT), or switch the search of the method off"
            )
        augmented = split == "train" and passes > 1
        transform = build_transform(self.cfg, is_train=augmented)
        wrapped = DatasetWrapper(self.cfg, items, transform, is_train=augmented)
        wrapped.k_tfm = 1  # a pass is a view
        found = []
        for number in range(passes):
            wrapped.set_seed(seed := derive_seed(self.seed, number, len(items)))
            features, label = self.encode(
                wrapped, f"{split} features {number + 1}/{passes}", seed if augmented else None
            )
            found.append(features)
        return torch.stack(found), label  # (passes, N, E) and (N,)

    def encode(self, dataset: DatasetWrapper, title: str, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Raw features (N, E) and labels (N,) of the images that can be read; from the store what it has. ``seed``: of
        the augmentation, if there is any."""
        if not self.store:
            return self._encode(dataset, title)
        items = dataset.data_source
        facts = {
            "encoder": self._encoder,
            "precision": self.classifier.precision,
            "data set": self.cfg.DATASET.NAME,
            "input": view_options(self.cfg, dataset.is_train),
            "train": dataset.is_train,
            "seed": seed,
        }
        places = enumerate(items)  # on which an augmentation depends
        keys = [image_key(item.impath, *(() if seed is None else (place,))) for place, item in places]
        found = FeatureStore(self.store, facts).features(
            keys, lambda missing: self._encode(dataset, title, missing)[0].cpu()
        )
        device = self.classifier.device
        return found.to(device), torch.tensor([item.label for item in items], device=device)

    @cached_property
    def _encoder(self) -> str:
        return encoder_checksum(self.classifier.clip.visual)

    @torch.no_grad()
    def _encode(self, dataset: DatasetWrapper, title: str, places: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """Of all images, or of those at some places."""
        size, workers = self.cfg.DATALOADER.TEST.BATCH_SIZE, self.cfg.DATALOADER.NUM_WORKERS
        wanted = dataset if places is None else Subset(dataset, places)
        loader = dataset.loader(wanted, size, self.classifier.device, num_workers=workers)
        bar = tqdm(loader, desc=title, leave=False, disable=None)
        clip, device = self.classifier.clip, self.classifier.device
        pairs = [
            (at_least_fp32(clip.encode_image(batch["img"].to(device, non_blocking=True))), batch["label"].to(device))
            for batch in bar
            if batch is not None  # every image of it was unreadable
        ]
        features, labels = zip(*pairs)
        return torch.cat(features), torch.cat(labels)  # (N, E) and (N,)


def view_options(cfg: CfgNode, is_train: bool) -> dict[str, object]:
    """Options that decide what is made of an image: in a test those of augmentations do not."""
    if is_train:
        return {**cfg.INPUT}
    tested = {name: cfg.INPUT[name] for name in ("INTERPOLATION", "NO_TRANSFORM", "PIXEL_MEAN", "PIXEL_STD", "SIZE")}
    return tested | {"TRANSFORMS": [name for name in cfg.INPUT.TRANSFORMS if name in AT_TEST]}


class FeatureDataset(Dataset):
    """Items whose ``img`` is the unit-norm image feature (E,), which a classifier takes in place of an image.

    features: (V, N, E); which of V views an item has depends on the seed last given to ``set_seed``.
    """

    def __init__(self, items: Sequence[Datum], features: Tensor):
        self.items, self.features, self.seed = items, features, 0

    def set_seed(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, object]:
        item, view = self.items[index], 0
        if len(self.features) > 1:
            view = derive_seed(self.seed, index) % len(self.features)
        return {"img": self.features[view, index], "label": item.label, "impath": item.impath, "index": index}


def check_cacheable(cfg: CfgNode, needs: Needs) -> None:
    """ValueError if features of training images would not stay what they are, or would not do."""
    if cfg.DATALOADER.FEATURE_VIEWS == 1 and (random := set(cfg.INPUT.TRANSFORMS) - DETERMINISTIC):
        raise ValueError(
            f"DATALOADER.CACHE_FEATURES needs the same view of an image in every epoch, but INPUT.TRANSFORMS has"
            f" {', '.join(sorted(random))}; use --transforms normalize, keep several views"
            " (DATALOADER.FEATURE_VIEWS), or switch the cache off"
        )
    if cfg.DATALOADER.SKIP_BROKEN:
        raise ValueError("DATALOADER.CACHE_FEATURES needs every image, so it does not go with DATALOADER.SKIP_BROKEN")
    if (views := max(cfg.DATALOADER.K_TRANSFORMS, needs.views)) > 1:
        raise ValueError(f"DATALOADER.CACHE_FEATURES keeps one view of an image, but {views} are wanted (K_TRANSFORMS)")
    if needs.images:
        raise ValueError(
            "DATALOADER.CACHE_FEATURES is for methods that leave the image encoder alone; this one puts prompts into"
            " it, or has a teacher that looks at the images"
        )


def cached_features(loader: DataLoader, sets: ImageSets) -> DataLoader:
    """A loader of the same batches in the same order, with features for images."""
    if (views := sets.cfg.DATALOADER.FEATURE_VIEWS) > 1:
        return of_features(loader, sets.features("train", views)[0])  # (V, N, E)
    return of_features(loader, sets.encode(loader.dataset, "image features")[0][None])  # (1, N, E)


def stored_features(loader: DataLoader, sets: ImageSets, needs: Needs, split: str) -> DataLoader:
    """The same for a test, if there is a store of what other runs encoded, no prompt changes the images, and one
    process looks at all of them; else the loader itself."""
    done = isinstance(loader.dataset, FeatureDataset)
    if done or needs.images or current().size > 1 or not sets.store:
        return loader
    return of_features(loader, sets.encode(loader.dataset, f"{split} features")[0][None])  # (1, N, E)


def of_features(loader: DataLoader, features: Tensor) -> DataLoader:
    """Raw features (V, N, E) in place of the images that the loader has."""
    return DataLoader(
        FeatureDataset(loader.dataset.data_source, unit(features).cpu()),
        loader.batch_size,
        sampler=loader.batch_sampler.sampler,  # of this process's share
        drop_last=loader.drop_last,
        generator=loader.generator,
        pin_memory=loader.pin_memory,
    )


@torch.no_grad()
def zeroshot_line(model: PromptedCLIP, loader: DataLoader) -> str:
    """Zero-shot CLIP's accuracy on the images of a loader: a wrong class name or folder shows at once."""
    hits = total = 0
    with model.autocast():
        text = model.zeroshot()
        for batch in loader:
            if batch is None:  # every image of it was unreadable
                continue
            logits = model.encode_image(batch["img"].to(model.device)) @ text.t()  # (B, C), but for their scale
            predicted = logits.argmax(dim=1)
            hits, total = hits + int((predicted == batch["label"].to(model.device)).sum()), total + len(predicted)
    hits, total = (sum(counts) for counts in zip(*current().gather((hits, total))))
    return (
        f'Zero-shot CLIP with "{model.template}": {100 * hits / max(total, 1):.1f}% on the test images'
        f" (chance: {100 / len(model.classnames):.1f}%)"
    )
