"""Oxford-IIIT Pet (Parkhi et al., 2012): 37 breeds of cats and dogs."""

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import reading

from .base import ListedDataset
from .splits import Item, Split, hold_out_val


@DATASET_REGISTRY.register()
class OxfordPets(ListedDataset):
    """Official test images; the official trainval list is cut into train and val."""

    dataset_dirs = ("oxford_pets", "oxford-iiit-pet")
    split_file = "split_zhou_OxfordPets.json"
    template = "a photo of a {}, a type of pet."

    def make_split(self) -> Split:
        return hold_out_val(self._read("trainval.txt"), self._read("test.txt"))

    def _read(self, name: str) -> list[Item]:
        """Lines ``<Breed_name>_<number> <class id from 1> <species> <breed id>``."""
        items = []
        for line in self.read_lines(f"annotations/{name}"):
            with reading(name, "a list of '<Breed_name>_<number> <class id> ...'"):
                stem, class_id = line.split()[:2]
                label = int(class_id) - 1
            items.append(Item(f"{stem}.jpg", label, stem.rpartition("_")[0].lower()))
        return items
