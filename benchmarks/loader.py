"""Images a second of the training loader: ``python -m benchmarks.loader``.

JPEG files of a usual size, random resized crop and flip to 224 pixels, batches of 32: read in the main process, by
workers, and from decoded images kept in memory (``DATALOADER.CACHE ram``). Second epoch: files are in the page cache.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import arguments, machine, markdown
from dassl.config import get_cfg_default
from dassl.data.cache import cache_in_ram
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import Datum
from dassl.data.transforms import build_transform
from trainers import extend_cfg

COUNT, SIZE, BATCH = 512, (500, 375), 32


def make_images(folder: Path) -> list[Datum]:
    """JPEGs with structure at all scales, so that they compress as photographs do."""
    rng = np.random.default_rng(0)
    items = []
    for i in range(COUNT):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            SIZE, Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse).astype(int) + rng.integers(-12, 13, (SIZE[1], SIZE[0], 3))
        path = folder / f"{i}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        items.append(Datum(str(path), i % 10))
    return items


def images_per_second(items: list[Datum], workers: int, cached: bool) -> float:
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.DATALOADER.NUM_WORKERS = workers
    items = cache_in_ram(items, "training") if cached else items
    loader = build_data_loader(cfg, "RandomSampler", items, BATCH, tfm=build_transform(cfg), is_train=True)
    for _ in range(2):
        start = time.perf_counter()
        seen = sum(len(batch["label"]) for batch in loader)
    return seen / (time.perf_counter() - start)


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        items = make_images(Path(folder))
        rows = []
        for workers in sorted({0, args.threads}):
            plain, cached = (images_per_second(items, workers, kept) for kept in (False, True))
            rows.append([workers, plain, cached, cached / plain])
    print(f"\n{machine()}\n\n{markdown(rows, ['workers', 'from files', 'decoded in memory', 'ratio'])}")


if __name__ == "__main__":
    main()
