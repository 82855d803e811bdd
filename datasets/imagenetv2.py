"""ImageNetV2 (Recht et al., 2019), matched frequency: new test images for ImageNet's 1,000 classes."""

from dassl.data.datasets import DATASET_REGISTRY

from .checks import first
from .imagenet import ImageNetShift, read_classnames
from .splits import Split, class_folders, folder_items


@DATASET_REGISTRY.register()
class ImageNetV2(ImageNetShift):
    """Folders are named by label (0..999), which is the line of the class name."""

    dataset_dirs = ("imagenetv2",)
    image_dirs = ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency")

    def load(self, num_shots: int, seed: int) -> Split:
        names = read_classnames(self.dataset_dir)
        if list(names) != sorted(names):
            raise ValueError(
                f"{self.dataset_dir}/classnames.txt must be sorted by WordNet id: its lines are the labels"
            )
        folders = [str(label) for label in range(len(names))]
        found = set(class_folders(self.image_dir))
        missing, strays = sorted(set(folders) - found, key=int), sorted(found - set(folders))
        if missing or strays:
            raise ValueError(
                f"{self.image_dir}: expected one folder for each line of the class names, 0..{len(names) - 1}; "
                f"missing: {first(missing) or 'none'}; not expected: {first(strays) or 'none'}"
            )
        test = folder_items(self.image_dir, "", folders, list(names.values()))
        return Split(test, [], test)
