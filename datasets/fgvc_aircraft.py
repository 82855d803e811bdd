"""FGVC-Aircraft (Maji et al., 2013): 100 variants."""

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import reading

from .base import ListedDataset
from .splits import Item, Split, label_of


@DATASET_REGISTRY.register()
class FGVCAircraft(ListedDataset):
    """The official train, val and test lists of variants; images keep their copyright banner."""

    dataset_dirs = ("fgvc_aircraft", "fgvc-aircraft-2013b/data")
    template = "a photo of a {}, a type of aircraft."

    def read_split(self) -> Split:
        labels = {name: label for label, name in enumerate(self.read_lines("variants.txt"))}
        return Split(*(self._read(part, labels) for part in Split._fields))

    def _read(self, part: str, labels: dict[str, int]) -> list[Item]:
        """Lines ``<image id> <variant>``; variants contain spaces and slashes."""
        name = f"images_variant_{part}.txt"
        rows = [line.split(maxsplit=1) for line in self.read_lines(name)]
        with reading(name, "a list of '<image id> <variant>'"):
            return [Item(f"{image}.jpg", label_of(variant, labels, "variants.txt"), variant) for image, variant in rows]
