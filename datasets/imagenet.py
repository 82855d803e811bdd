"""ImageNet (ILSVRC 2012), and what its relatives share: folders named by WordNet id, and CLIP's class names."""

from collections.abc import Callable, Sequence
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, Table
from dassl.utils import read_text

from .base import PublishedDataset
from .checks import describe, first
from .fewshot import fingerprint, rows_hash
from .index import ClassFolders
from .shards import Shards
from .splits import Item, Split, class_folders, folder_items, hold_out, list_images
from .templates import imagenet_templates_select

CLIP_NAMES_SHA256 = "571ae1c583b4be7da87519494c52bf405a46af05d5815627c7a0dee997068b60"


class WordNetFolders(PublishedDataset):
    """Train and val folders of class folders; val serves as test, and as val unless ``DATASET.HELD_OUT`` makes one.

    Images are taken in sorted order, so that few-shot picks are the same on every file system; the original
    code takes them as the file system lists them. Val is never few-shot sampled.
    """

    train_dir = "train"
    val_dir = "val"

    def __init__(self, cfg: CfgNode) -> None:
        self.held_out, self.held_out_classes = cfg.DATASET.HELD_OUT, cfg.DATASET.HELD_OUT_CLASSES
        self.skip_broken = cfg.DATALOADER.SKIP_BROKEN
        super().__init__(cfg)

    def load(self, num_shots: int, seed: int) -> Split:
        train, test = (self.folders(self.image_dir / part) for part in (self.train_dir, self.val_dir))
        check_same_folders(train.where, train.classes, test.where, test.classes)
        names = self.names_of(train)
        source = rows_hash([], train.source, names)
        return self.split(lambda: train.items(names), test.items(names), num_shots, seed, source)

    def split(
        self, read: Callable[[], Table[Item]], test: Table[Item], num_shots: int, seed: int, source: str
    ) -> Split:
        """The three lists, of ``read()`` the training images; picks do not depend on whether images are held out.

        source: fingerprint of the training images, which need not be read if few-shot picks were kept.
        """
        picks: Sequence[Item] = ()
        if num_shots >= 1:
            picks, _ = self.keep_fewshot(lambda: Split(read(), [], []), num_shots, seed, source)
        if self.held_out < 1:
            return Split(picks or read(), test, test)
        rest, val = hold_out(read(), self.held_out, seed, picks, self.held_out_classes)
        return Split(picks or rest, val, test)

    def names_of(self, images: ClassFolders | Shards) -> list[str]:
        """Class names by label."""
        return names_of(images.classes, self.read_classnames(), self.dataset_dir)

    def read_classnames(self) -> dict[str, str]:
        """Name of each WordNet id."""
        return read_classnames(self.dataset_dir)

    def folders(self, folder: Path) -> ClassFolders:
        """The class folders in a folder, which must be there."""
        classes = class_folders(self._find(folder.parent, (folder.name,)))
        if classes:
            return ClassFolders(self.dataset_dir, self.image_dir, folder.name, classes)
        if list_images(folder):
            raise ValueError(
                f"{folder} holds images but no class folders, as ImageNet's val archive unpacks. "
                f"'python -m tools.data fetch {type(self).__name__}' sorts them by the devkit's labels"
            )
        raise ValueError(f"no class folders in {folder}, {describe(folder)}")


@DATASET_REGISTRY.register()
class ImageNet(WordNetFolders):
    """1,000 classes; the official validation images are the test images."""

    dataset_dirs = ("imagenet",)
    image_dirs = ("images", "ILSVRC/Data/CLS-LOC", ".")

    @property
    def templates(self) -> list[str]:
        """The 7 templates chosen for ImageNet, nothing added."""
        return imagenet_templates_select()


class ImageNetShift(PublishedDataset):
    """A shifted test set for ImageNet: class folders of test images only, named as in ImageNet.

    The test list stands in for the training list; shots and base/new classes have no effect.
    """

    test_only = True

    def load(self, num_shots: int, seed: int) -> Split:
        folders = class_folders(self.image_dir)
        if not folders:
            raise ValueError(f"no class folders in {self.image_dir}, {describe(self.image_dir)}")
        names = names_of(folders, read_classnames(self.dataset_dir), self.dataset_dir)
        test = folder_items(self.image_dir, "", folders, names)
        return Split(test, [], test)


def read_classnames(dataset_dir: Path) -> dict[str, str]:
    """Names by WordNet id, in label order, from ``classnames.txt`` or, without that file, CLIP's own list."""
    path = dataset_dir / "classnames.txt"
    if not path.is_file():
        return clip_classnames()
    names = {}
    for number, line in enumerate(read_text(str(path)).splitlines(), 1):
        wnid, _, name = line.strip().partition(" ")
        if not name:
            raise ValueError(f"{path}, line {number}: expected '<WordNet id> <name>', found {line!r}")
        names[wnid] = name
    if len(names) == 1000 and fingerprint(names.values()) != CLIP_NAMES_SHA256:
        print(f"Note: the names in {path} are not CLIP's; published numbers use CLIP's (delete the file to get them)")
    return names


def clip_classnames() -> dict[str, str]:
    """CLIP's 1,000 ImageNet names by WordNet id, in label order."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from timm.data.imagenet_info import ImageNetInfo

    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))


def names_of(folders: list[str], names: dict[str, str], dataset_dir: Path) -> list[str]:
    """Class names of folders, or an error that lists those without one."""
    unknown = [folder for folder in folders if folder not in names]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(folders)} class folders have no class name: {first(unknown)}. Is the list of "
            f"class names in {dataset_dir} that of this data set (it begins with {first(list(names))})?"
        )
    return [names[folder] for folder in folders]


def check_same_folders(train_dir: Path, train: list[str], val_dir: Path, val: list[str]) -> None:
    """Labels are positions, so train and val must have the same class folders."""
    only_train, only_val = sorted(set(train) - set(val)), sorted(set(val) - set(train))
    if only_train or only_val:
        raise ValueError(
            f"{train_dir} ({len(train)} classes) and {val_dir} ({len(val)}) must have the same classes; "
            f"only in {train_dir.name}: {first(only_train) or 'none'}; "
            f"only in {val_dir.name}: {first(only_val) or 'none'}"
        )
