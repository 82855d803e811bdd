"""UCF101 (Soomro et al., 2012): human actions, as the middle frame of every video."""

import re

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import reading

from .base import ListedDataset
from .splits import Item, Split, hold_out_val, label_of


@DATASET_REGISTRY.register()
class UCF101(ListedDataset):
    """Official list 01; its training clips are cut into train and val, clip by clip."""

    dataset_dirs = ("ucf101",)
    image_dirs = ("UCF-101-midframes",)
    split_file = "split_zhou_UCF101.json"
    template = "a photo of a person doing {}."

    def make_split(self) -> Split:
        rows = [line.split() for line in self.read_lines("ucfTrainTestlist/classInd.txt")]
        with reading("classInd.txt", "a list of '<class id> <Action>'"):
            labels = {action: int(class_id) - 1 for class_id, action in rows}
        return hold_out_val(self._read("trainlist01.txt", labels), self._read("testlist01.txt", labels))

    def _read(self, name: str, labels: dict[str, int]) -> list[Item]:
        """Lines ``<Action>/<video>.avi``, in the training list followed by a class id."""
        items = []
        for line in self.read_lines(f"ucfTrainTestlist/{name}"):
            with reading(name, "a list of '<Action>/<video>.avi'"):
                action, video = line.split()[0].split("/")
            words = action_name(action)
            items.append(
                Item(f"{words}/{video.removesuffix('.avi')}.jpg", label_of(action, labels, "classInd.txt"), words)
            )
        return items


def action_name(action: str) -> str:
    """``ApplyEyeMakeup`` -> ``Apply_Eye_Makeup``; also the name of the frames' folder."""
    return "_".join(re.findall("[A-Z][^A-Z]*", action))
