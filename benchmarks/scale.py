"""Data at the size of ImageNet-21K: ``python -m benchmarks.scale``.

*Loader*: images a second of the training loader from class folders and from shards, beside a bare loop that reads,
decodes and augments the same images in as many processes. In turns in one run; files are in the page cache.
*Index*: of 11,060,223 made-up images in 10,450 classes; what it takes on disk, to open, and of each process's memory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.common import arguments, machine, markdown
from benchmarks.loader import BATCH, make_images
from dassl.config import get_cfg_default
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import Datum
from dassl.data.samplers import RankShare, Shuffled
from dassl.data.transforms import build_transform
from dassl.ranks import Ranks
from datasets.base import ImageDataset
from datasets.index import ClassFolders, Content, ImageIndex, columns_of, write_index
from datasets.shards import Shards
from datasets.splits import Split, hold_out
from datasets.tars import TarImage
from tools.data.shard_writer import shard
from trainers import extend_cfg

CLASSES = 8  # of the images that are read
ALL_CLASSES, ALL_IMAGES = 10_450, 11_060_223


class Made(ImageDataset):
    """A data set of any table."""

    kind = Datum

    def _datum(self, item: object) -> Datum:
        datum = super()._datum(item)
        return self.kind(datum.impath, datum.label, datum.domain, datum.classname)


class MadeOfShards(Made):
    kind = TarImage


def make_data(folder: Path) -> dict[str, Sequence[Datum]]:
    """The same images in class folders and in shards, as readers hand them over."""
    heap, train = folder / "heap", folder / "train"
    heap.mkdir()
    wnids = [f"n{label:08d}" for label in range(CLASSES)]
    for at, item in enumerate(make_images(heap)):
        target = train / wnids[at % CLASSES] / f"{wnids[at % CLASSES]}_{at}.JPEG"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(item.impath, target)
    shard([train], folder / "shards", "train", 128, None)
    tables = (
        (Made, ClassFolders(folder, folder, "train", wnids)),
        (MadeOfShards, Shards(folder, folder / "shards", "train", wnids)),
    )
    lists = [
        kind(config(), folder, Split(t.items(wnids), t.items(wnids), t.items(wnids))).train_x for kind, t in tables
    ]
    return dict(zip(("class folders", "shards"), lists))


def config():
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    return cfg


def visit(items: Sequence[Datum], transform: Callable, positions: Sequence[int]) -> int:
    """The bare loop."""
    torch.set_num_threads(1)
    return sum(transform(items[at].load()).shape[0] for at in positions)


def measure_loader(items: Sequence[Datum], workers: int, repeats: int) -> list[float]:
    """Images a second of the bare loop and of the loader, their ratio, and that of images a second of processor time.

    The second ratio is that of the first on a machine whose cores nobody else uses.
    """
    cfg = config()
    cfg.DATALOADER.NUM_WORKERS = workers
    transform = build_transform(cfg)
    loader: DataLoader = build_data_loader(cfg, "RandomSampler", items, BATCH, tfm=transform, is_train=True)
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
    shares = [order[i :: max(1, workers)] for i in range(max(1, workers))]
    found: list[list[float]] = []
    with get_context("fork").Pool(len(shares)) as pool:
        work = (
            lambda: pool.map(partial(visit, items, transform), shares, chunksize=1),
            lambda: sum(len(batch["label"]) for batch in loader),
        )
        for repeat in range(repeats + 1):
            before = [time.perf_counter(), cpu_seconds()]
            for part in work:
                part()
                after = [time.perf_counter(), cpu_seconds()]
                found += [[b - a for a, b in zip(before, after)]] if repeat else []  # the first is a warm-up
                before = after
    bare, loaded = np.median(found[::2], axis=0), np.median(found[1::2], axis=0)
    return [len(items) / bare[0], len(items) / loaded[0], *bare / loaded]


def cpu_seconds() -> float:
    """Processor time of this process and those that it started."""
    pids = [os.getpid(), *(child.pid for child in active_children())]
    ticks = sum(sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) for pid in pids)
    return ticks / os.sysconf("SC_CLK_TCK")


def made_up(classes: int, images: int) -> Content:
    """An index's content: names as ImageNet's, ``n00000042_1234567.JPEG``."""
    counts = np.full(classes, images // classes)
    counts[: images % classes] += 1
    label = np.repeat(np.arange(classes), counts)
    digits = lambda number, width: (number[:, None] // 10 ** np.arange(width)[::-1] % 10 + ord("0")).astype(np.uint8)  # noqa: E731
    text = lambda word: np.broadcast_to(np.frombuffer(word, np.uint8), (images, len(word)))  # noqa: E731
    names = np.hstack([text(b"n"), digits(label, 8), text(b"_"), digits(np.arange(images), 7), text(b".JPEG")])
    columns = columns_of(counts, np.full(images, names.shape[1], np.uint32))
    return Content([f"n{at:08d}" for at in range(classes)], {**columns, "names": names.reshape(-1)})


def own_memory() -> float:
    """MB of this process that no file backs."""
    with open("/proc/self/status", encoding="ascii") as file:
        return int(next(line for line in file if line.startswith("RssAnon")).split()[1]) / 1024


def open_and_use(path: str, queue) -> None:
    """In a process of its own: seconds to a data set, and its memory; and after drawing an epoch's order."""
    cfg, before, start = config(), own_memory(), time.perf_counter()
    cfg.VERBOSE = False
    index = ImageIndex(path)
    names = [f"class {label}" for label in range(len(index.classes))]
    train, val = hold_out(index.items("train", names), 5, seed=1)
    items = Made(cfg, Path("/nowhere"), Split(train, val, index.items("val", names))).train_x
    seconds = time.perf_counter() - start
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    seen = {items[int(at)].impath for at in rng.integers(0, len(items), 10_000)}
    each = (time.perf_counter() - start) / 10_000
    memory = own_memory() - before
    order = iter(RankShare(Shuffled(items), Ranks(), BATCH))
    next(order)
    queue.put((seconds, each * 1e6, memory, own_memory() - before - memory, len(seen)))


def measure_index(folder: Path, classes: int, images: int) -> list[object]:
    start = time.perf_counter()
    path = write_index(folder / "train.safetensors", "made up", made_up(classes, images)).path
    made = time.perf_counter() - start
    context = get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=open_and_use, args=(path, queue))
    process.start()
    seconds, each, memory, order, _ = queue.get(timeout=600)
    process.join()
    size = os.path.getsize(path)
    return [f"{images:,}", made, size / 1e6, size / images, seconds, each, memory, order]


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder))
        cases = [(name, workers) for name in data for workers in (0, args.threads)]
        rows = [[*case, *measure_loader(data[case[0]], case[1], args.repeats)] for case in cases]
        index = measure_index(Path(folder), ALL_CLASSES, ALL_IMAGES)
    header = ["from", "workers", "bare loop, images/s", "loader", "ratio", "ratio of processor time"]
    print(f"\n{machine()}\n\n{markdown(rows, header)}")
    header = [
        "images",
        "made s",
        "MB on disk",
        "bytes an image",
        "data set s",
        "us an item",
        "MB a process",
        "MB order",
    ]
    print(f"\n{markdown([index], header)}")


if __name__ == "__main__":
    main()
