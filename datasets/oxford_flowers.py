"""Oxford Flowers 102 (Nilsback and Zisserman, 2008)."""

import json

from dassl.data.datasets import DATASET_REGISTRY

from .base import SplitBenchmark
from .splits import Item, Split, split_classes


@DATASET_REGISTRY.register()
class OxfordFlowers(SplitBenchmark):
    """All 8,189 images, cut anew; the official split is not used."""

    dataset_dirs = ("oxford_flowers", "flowers-102")
    image_dirs = ("jpg",)
    split_file = "split_zhou_OxfordFlowers.json"
    template = "a photo of a {}, a type of flower."

    def make_split(self) -> Split:
        from scipy.io import loadmat

        names = json.loads(self.need("cat_to_name.json").read_text(encoding="utf-8"))
        ids = loadmat(self.need("imagelabels.mat"))["labels"][0].tolist()
        return split_classes([Item(f"image_{i:05d}.jpg", id_ - 1, names[str(id_)]) for i, id_ in enumerate(ids, 1)])
