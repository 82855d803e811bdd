"""Decoded images kept in memory (``DATALOADER.CACHE ram``)."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from dassl.data.datasets import Datum
from dassl.utils import BrokenImageError, log

__all__ = ["CachedDatum", "cache_in_ram", "cpu_count"]


class CachedDatum(Datum):
    """A ``Datum`` whose decoded image is kept."""

    def __init__(self, item: Datum, image: Image.Image) -> None:
        super().__init__(item.impath, item.label, item.domain, item.classname)
        self._image = image

    def load(self) -> Image.Image:
        return self._image


def cache_in_ram(items: Sequence[Datum], name: str) -> Sequence[Datum]:
    """The items with their images decoded, if four fifths of the free memory can hold them; else as they are.

    Unreadable images are left to be found when they are used.
    """
    if not items:
        return items
    needed, free = _decoded_bytes(items), _free_memory()
    size = f"{len(items):,} {name} images, {needed / 1e9:.2f} GB decoded"
    if needed > 0.8 * free:
        log.info(f"Not cached: {size}, with {free / 1e9:.2f} GB of memory free; reading them from disk")
        return items
    log.info(f"Caching {size}")
    with ThreadPoolExecutor(cpu_count()) as pool:
        return list(pool.map(_decode, items))


def _decode(item: Datum) -> Datum:
    try:
        return CachedDatum(item, item.load())
    except BrokenImageError:
        return item


def _decoded_bytes(items: Sequence[Datum], sample: int = 64) -> int:
    """Memory of all images, estimated from evenly spaced ones."""
    step = max(1, len(items) // sample)
    images = [cached.load().size for item in items[::step] if isinstance(cached := _decode(item), CachedDatum)]
    return round(3 * sum(w * h for w, h in images) / max(1, len(images)) * len(items))


def _free_memory() -> int:
    """Bytes that can be had without swapping; half of the memory where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("MemAvailable"))
            return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def cpu_count() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
