"""Oxford Flowers 102 (Nilsback and Zisserman, 2008)."""

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import read_json, reading

from .base import ListedDataset
from .splits import Item, Split, split_classes


@DATASET_REGISTRY.register()
class OxfordFlowers(ListedDataset):
    """All 8,189 images, cut anew; the official split is not used."""

    dataset_dirs = ("oxford_flowers", "flowers-102")
    image_dirs = ("jpg",)
    split_file = "split_zhou_OxfordFlowers.json"
    template = "a photo of a {}, a type of flower."

    def make_split(self) -> Split:
        from scipy.io import loadmat

        labels, names = self.need("imagelabels.mat"), read_json(str(self.need("cat_to_name.json")))
        with reading(str(labels), "the list of labels that fits cat_to_name.json"):
            ids = loadmat(labels)["labels"][0].tolist()
            items = [Item(f"image_{i:05d}.jpg", id_ - 1, names[str(id_)]) for i, id_ in enumerate(ids, 1)]
        return split_classes(items)
