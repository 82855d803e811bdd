"""SUN397 (Xiao et al., 2010): scenes."""

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import reading

from .base import ListedDataset
from .splits import Item, Split, hold_out_val, label_of


@DATASET_REGISTRY.register()
class SUN397(ListedDataset):
    """Official partition 01; its training images are cut into train and val."""

    dataset_dirs = ("sun397", "SUN397")
    image_dirs = ("SUN397", ".")
    split_file = "split_zhou_SUN397.json"

    def make_split(self) -> Split:
        labels = {line[1:]: label for label, line in enumerate(self.read_lines("ClassName.txt"))}
        return hold_out_val(self._read("Training_01.txt", labels), self._read("Testing_01.txt", labels))

    def _read(self, name: str, labels: dict[str, int]) -> list[Item]:
        """Lines ``/a/abbey/sun_xxx.jpg``."""
        items = []
        for line in self.read_lines(name):
            path = line[1:]
            scene = path.rpartition("/")[0]
            with reading(name, "a list of '/<scene>/<image>'"):
                items.append(Item(path, label_of(scene, labels, "ClassName.txt"), scene_name(scene)))
        return items


def scene_name(scene: str) -> str:
    """``b/bow_window/indoor`` -> ``indoor bow_window``."""
    return " ".join(reversed(scene.split("/")[1:]))
