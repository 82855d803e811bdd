"""ImageNet-21K-P (Ridnik et al., 2021): the classes of ImageNet-21K with more than 500 images."""

from importlib.resources import files
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import load_checkpoint, log

from .fewshot import rows_hash
from .imagenet import WordNetFolders, check_same_folders
from .index import ClassFolders
from .shards import Shards, part_of
from .splits import SPLIT_SEED, Item, Split, hold_out
from .tars import PLACE, TarImage

SYNSETS = "synsets.txt"  # in the data set's folder: WordNet ids of the classes, one a line
TEST_IMAGES = 50  # of each class, as the publishers' val has; where shards come without one


@DATASET_REGISTRY.register()
class ImageNet21K(WordNetFolders):
    """Classes are the folders that are there (winter 2021: 10,450); names come from the publishers' tree.

    Without training folders, the shards in ``shards`` are read: images of the classes of the val folders, else of
    ``synsets.txt``, else of timm's list of the 10,450. Test images are those of the val folders, else of val shards;
    without either, 50 of each class are taken from the training images, always the same.
    """

    dataset_dirs = ("imagenet21k_resized", "imagenet_21k")
    image_dirs = (".",)
    train_dir = "imagenet21k_train"
    val_dir = "imagenet21k_val"
    shard_dir = "shards"

    def load(self, num_shots: int, seed: int) -> Split:
        folder = self._find(self.image_dir, (self.train_dir, self.shard_dir))
        if folder.name == self.train_dir:
            return super().load(num_shots, seed)
        test = self.find_test(folder)
        wanted = test.classes if test else self.read_synsets()
        train = Shards(self.dataset_dir, folder, "train", wanted, test, self.skip_broken)
        names = self.names_of(train)
        source = rows_hash([], train.source, names)
        if test:
            check_same_folders(train.where, train.classes, test.where, test.classes)
            return self.split(lambda: train.items(names), test.items(names), num_shots, seed, source)
        log.info(f"Note: there are no test images: up to {TEST_IMAGES} of each class are taken from {folder}")
        rest, held = hold_out(train.items(names), TEST_IMAGES, SPLIT_SEED)
        return self.split(lambda: rest, held, num_shots, seed, source)

    def find_test(self, folder: Path) -> ClassFolders | Shards | None:
        """Val folders, or val shards in a folder, if there are any."""
        if (self.image_dir / self.val_dir).is_dir():
            return self.folders(self.image_dir / self.val_dir)
        if part_of(folder, "val"):
            return Shards(self.dataset_dir, folder, "val", self.read_synsets(), skip_broken=self.skip_broken)
        return None

    def read_synsets(self) -> list[str]:
        """WordNet ids of the classes that are read from shards."""
        if (self.dataset_dir / SYNSETS).is_file():
            return self.read_lines(SYNSETS)
        return timm_synsets()

    def read_classnames(self) -> dict[str, str]:
        path = self.need("imagenet21k_miil_tree.pth")
        tree = load_checkpoint(str(path))
        if not isinstance(tree, dict) or not isinstance(tree.get("class_description"), dict):
            raise ValueError(f"{path} has no 'class_description' (WordNet id -> class name)")
        return {wnid: str(name) for wnid, name in tree["class_description"].items()}

    def _datum(self, item: Item) -> Datum:
        datum = super()._datum(item)
        if not PLACE.fullmatch(item.path):
            return datum
        return TarImage(datum.impath, datum.label, datum.domain, datum.classname)


def timm_synsets() -> list[str]:
    """WordNet ids of the 10,450 classes, from timm's list."""
    path = files("timm") / "data" / "_info" / "imagenet21k_miil_w21_synsets.txt"
    if not path.is_file():
        raise FileNotFoundError(f"no list of the classes in timm ({path}): give one in {SYNSETS}, a WordNet id a line")
    return path.read_text(encoding="utf-8").split()
