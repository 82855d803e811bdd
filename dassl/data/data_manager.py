"""Loaders: a data set, its transforms, and batches of both."""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor, v2
from yacs.config import CfgNode

from dassl.data.cache import cache_in_ram, cpu_count
from dassl.data.datasets import Datum, build_dataset
from dassl.data.loader import SENT, BytesLoader, collate_readable
from dassl.data.samplers import RankShare, build_sampler
from dassl.data.transforms import INTERPOLATION_MODES, Pipeline, build_transform
from dassl.ranks import current
from dassl.utils import BrokenImageError, derive_seed, log, read_image

__all__ = ["INTERPOLATION_MODES", "DataManager", "DatasetWrapper", "build_data_loader", "read_image"]

Transform = Callable[[Image.Image], Any]


class DatasetWrapper(Dataset[dict[str, Any]]):
    """Items as dicts: ``img``, ``label``, ``domain``, ``impath``, ``index``; ``img0`` with DATALOADER.RETURN_IMG0.

    ``img`` is the transformed image, (3, H, W) as a rule; the PIL image without a transform; a list of K of them with
    ``DATALOADER.K_TRANSFORMS`` = K > 1 (training only). A list of transforms gives ``img``, ``img2``, ``img3``, ...

    Augmentation of an item depends on the seed last given to ``set_seed`` and the item's index alone, whichever process
    computes it. Unreadable images raise ``BrokenImageError``; with ``DATALOADER.SKIP_BROKEN`` the next readable item
    takes the place (training) or the item is ``None`` (``collate_readable`` drops it).
    """

    def __init__(
        self,
        cfg: CfgNode,
        data_source: Sequence[Datum],
        transform: Transform | Sequence[Transform] | None = None,
        is_train: bool = False,
    ) -> None:
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise ValueError(f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but there is no transform to apply")
        to_tensor = [v2.Resize(cfg.INPUT.SIZE, INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]), ToTensor()]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            to_tensor.append(v2.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
        self.to_tensor = v2.Compose(to_tensor)
        self.halves = _halves(transform)  # what makes bytes of an image, and their normalisation
        self.sends_bytes = False
        self._seed = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that live on
        self._is_seeded = False

    def set_seed(self, seed: int) -> None:
        """Make augmentation a function of ``seed`` and the item; to be called before each epoch."""
        self._seed.fill_(seed)
        self._is_seeded = True

    def __len__(self) -> int:
        return len(self.data_source)

    def loader(self, images: Dataset, batch_size: int, device: torch.device, **settings: Any) -> DataLoader:
        """Batches of ``images``, which are this data set or a subset of it, by way of bytes where that is possible."""
        as_here = type(self).__getitem__ is DatasetWrapper.__getitem__  # not of a trainer that makes its own items
        self.sends_bytes = as_here and self.halves is not None
        normalize = self.halves[1] if self.halves else None
        return BytesLoader(
            images, batch_size, device=device, normalize=normalize, collate_fn=collate_readable, **settings
        )

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any] | None]:
        """What a loader asks for; one made by ``build_data_loader`` takes bytes, ``img_bytes`` in place of ``img``."""
        if not self.sends_bytes:
            return [self[idx] for idx in indices]
        return [self._item(idx, self.halves[0], SENT) for idx in indices]

    def __getitem__(self, idx: int) -> dict[str, Any] | None:
        return self._item(idx, self.transform)

    def _item(self, idx: int, transform: Any, suffix: str = "") -> dict[str, Any] | None:
        found = self._load(idx)
        if found is None:
            return None
        idx, item, image = found
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        if self.is_train and self._is_seeded:
            with _random_state(derive_seed(int(self._seed), idx)):
                output.update(self._views(image, transform, suffix))
        else:
            output.update(self._views(image, transform, suffix))
        if self.return_img0:
            output["img0"] = self.to_tensor(image)
        return output

    def _load(self, idx: int) -> tuple[int, Datum, Image.Image] | None:
        """An item's index, itself and its image, or those of the next readable one."""
        for candidate in chain(range(idx, len(self)), range(idx)):
            item = self.data_source[candidate]
            try:
                return candidate, item, item.load()
            except BrokenImageError as error:
                if not self.cfg.DATALOADER.SKIP_BROKEN:
                    raise
                warnings.warn(f"skipped: {error}", stacklevel=2)
                if not self.is_train:
                    return None
        raise BrokenImageError(f"none of the {len(self)} images can be read, the first is {self.data_source[0].impath}")

    def _views(self, image: Image.Image, transform: Any, suffix: str) -> dict[str, Any]:
        if not isinstance(transform, (list, tuple)):
            return {f"img{suffix}": self._apply(transform, image)}
        names = ["img", *(f"img{i + 2}" for i in range(len(transform) - 1))]
        return {f"{name}{suffix}": self._apply(one, image) for name, one in zip(names, transform)}

    def _apply(self, transform: Transform | None, image: Image.Image) -> Any:
        if transform is None:
            return image
        views = [transform(image) for _ in range(self.k_tfm)]
        return views if self.k_tfm > 1 else views[0]


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """Run a block from ``seed``, and give Python's and torch's CPU generators their state back.

    NumPy's is seeded but not restored: that alone would take longer than augmenting a small image.
    """
    before = random.getstate(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
    try:
        yield
    finally:
        random.setstate(before[0])
        torch.set_rng_state(before[1])


def _halves(transform: Any) -> tuple[Any, v2.Normalize | None] | None:
    """Of a transform, or of each in a list, which then share the normalisation."""
    several = isinstance(transform, (list, tuple))
    found = [one.halves() if isinstance(one, Pipeline) else None for one in (transform if several else [transform])]
    if not found or not all(found) or len({repr(normalize) for _, normalize in found}) > 1:
        return None
    return [first for first, _ in found] if several else found[0][0], found[0][1]


def build_data_loader(  # noqa: PLR0913 (the family's signature)
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Transform | Sequence[Transform] | None = None,
    is_train: bool = True,
    dataset_wrapper: type[Dataset] | None = None,
) -> DataLoader:
    """Batches of ``data_source``. A training loader drops an incomplete last batch unless it is the only one.

    Of several ranks each has its share of the images. ``batch_size`` is that of one rank.
    """
    if not data_source:
        raise ValueError(f"the {'training' if is_train else 'evaluation'} data set has no images")
    ranks = current()
    whole = ranks.size * batch_size if is_train else batch_size  # of all ranks, as samplers that compose batches see it
    dataset = (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train)
    batches = -(-len(data_source) // (ranks.size * batch_size))
    workers = min(cfg.DATALOADER.NUM_WORKERS, max(1, cpu_count() // ranks.on_this_machine), batches)
    on_gpu = torch.cuda.is_available() and cfg.USE_CUDA
    settings = {
        "sampler": build_sampler(sampler_type, cfg, data_source, whole, n_domain, n_ins),
        "num_workers": workers,
        "drop_last": is_train and len(data_source) >= whole,
        "pin_memory": on_gpu,
        "prefetch_factor": cfg.DATALOADER.PREFETCH_FACTOR if workers else None,
        # Workers that live on keep their generators, so only a data set that can be re-seeded may have them.
        "persistent_workers": workers > 0 and hasattr(dataset, "set_seed"),
        # How often workers draw a base seed depends on their number; the global generator must not notice.
        "generator": torch.Generator(),
    }
    if isinstance(dataset, DatasetWrapper):
        loader = dataset.loader(dataset, batch_size, torch.device("cuda" if on_gpu else "cpu"), **settings)
    else:
        loader = DataLoader(dataset, batch_size, collate_fn=collate_readable, **settings)
    if is_train or ranks.size > 1:
        loader.batch_sampler.sampler = RankShare(loader.sampler, ranks, batch_size if is_train else None)
    return loader


class DataManager:
    """The data set that ``cfg`` names and its loaders.

    train_loader_u and val_loader are ``None`` where the data set has no such list.
    """

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Transform | Sequence[Transform] | None = None,
        custom_tfm_test: Transform | Sequence[Transform] | None = None,
        dataset_wrapper: type[Dataset] | None = None,
    ) -> None:
        self.cfg = cfg
        if cfg.DATALOADER.CACHE not in ("none", "ram"):
            raise ValueError(f'DATALOADER.CACHE must be "none" or "ram", but got "{cfg.DATALOADER.CACHE}"')
        self.dataset = build_dataset(cfg)
        self._wrapper = dataset_wrapper
        tfm_train = self._transform(custom_tfm_train, is_train=True)
        tfm_test = self._transform(custom_tfm_test, is_train=False)
        loader = cfg.DATALOADER
        self.train_loader_x = self._loader(self.dataset.train_x, loader.TRAIN_X, tfm_train)
        self.train_loader_u = None
        if self.dataset.train_u:
            settings = loader.TRAIN_X if loader.TRAIN_U.SAME_AS_X else loader.TRAIN_U
            self.train_loader_u = self._loader(self.dataset.train_u, settings, tfm_train)
        self.val_loader = None
        if self.dataset.val:
            self.val_loader = self._loader(self.dataset.val, loader.TEST, tfm_test, is_train=False)
        self.test_loader = self._loader(self.dataset.test, loader.TEST, tfm_test, is_train=False)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    def cache_images(self) -> None:
        """With ``DATALOADER.CACHE ram`` decode the training and validation images, before the first epoch."""
        if self.cfg.DATALOADER.CACHE != "ram":
            return
        for loader, name in ((self.train_loader_x, "training"), (self.val_loader, "validation")):
            if loader is not None:
                loader.dataset.data_source = cache_in_ram(loader.dataset.data_source, name)

    @property
    def num_classes(self) -> int:
        return self.dataset.num_classes

    @property
    def num_source_domains(self) -> int:
        return len(self.cfg.DATASET.SOURCE_DOMAINS)

    @property
    def lab2cname(self) -> dict[int, str]:
        return self.dataset.lab2cname

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Print a table of the data set's name, domains and sizes."""
        data = self.dataset
        rows = [("Dataset", cfg.DATASET.NAME)]
        rows += [("Source", cfg.DATASET.SOURCE_DOMAINS)] if cfg.DATASET.SOURCE_DOMAINS else []
        rows += [("Target", cfg.DATASET.TARGET_DOMAINS)] if cfg.DATASET.TARGET_DOMAINS else []
        rows += [("# classes", f"{self.num_classes:,}"), ("# train_x", f"{len(data.train_x):,}")]
        rows += [("# train_u", f"{len(data.train_u):,}")] if data.train_u else []
        rows += [("# val", f"{len(data.val):,}")] if data.val else []
        rows += [("# test", f"{len(data.test):,}")]
        log.info(tabulate(rows))

    def _transform(self, custom: Any, is_train: bool) -> Any:
        if custom is None:
            return build_transform(self.cfg, is_train=is_train)
        log.info(f"* Using custom transform for {'training' if is_train else 'testing'}")
        return custom

    def _loader(self, items: Sequence[Datum], settings: CfgNode, tfm: Any, is_train: bool = True) -> DataLoader:
        passes = max(1, self.cfg.OPTIM.ACCUM_STEPS) if is_train else 1  # a batch is what one step needs
        return build_data_loader(
            self.cfg,
            settings.SAMPLER,
            items,
            settings.BATCH_SIZE * passes,
            settings.get("N_DOMAIN", 0),
            settings.get("N_INS", 2),
            tfm=tfm,
            is_train=is_train,
            dataset_wrapper=self._wrapper,
        )
