"""Stanford Cars (Krause et al., 2013): 196 makes, models and years."""

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import reading

from .base import ListedDataset
from .splits import Item, Split, hold_out_val


@DATASET_REGISTRY.register()
class StanfordCars(ListedDataset):
    """Official test images; the official training images are cut into train and val."""

    dataset_dirs = ("stanford_cars",)
    image_dirs = (".",)
    split_file = "split_zhou_StanfordCars.json"

    def make_split(self) -> Split:
        train = self._read("cars_train", "devkit/cars_train_annos.mat")
        return hold_out_val(train, self._read("cars_test", "cars_test_annos_withlabels.mat"))

    def _read(self, folder: str, annotations: str) -> list[Item]:
        from scipy.io import loadmat

        meta, rows = self.need("devkit/cars_meta.mat"), self.need(annotations)
        with reading(str(meta), "the list of class names"):
            names = [year_first(str(name[0])) for name in loadmat(meta)["class_names"][0]]
        items = []
        with reading(str(rows), "a list of annotated images"):
            for row in loadmat(rows)["annotations"][0]:
                label = int(row["class"][0, 0]) - 1
                items.append(Item(f"{folder}/{row['fname'][0]}", label, names[label]))
        return items


def year_first(name: str) -> str:
    """``AM General Hummer SUV 2000`` -> ``2000 AM General Hummer SUV``."""
    model, _, year = name.rpartition(" ")
    return f"{year} {model}"
