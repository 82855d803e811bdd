"""ImageNet-21K-P (Ridnik et al., 2021): the classes of ImageNet-21K with more than 500 images."""

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import load_checkpoint

from .imagenet import WordNetFolders


@DATASET_REGISTRY.register()
class ImageNet21K(WordNetFolders):
    """Classes are the folders that are there (winter 2021: 10,450); names come from the publishers' tree."""

    dataset_dirs = ("imagenet21k_resized",)
    image_dirs = (".",)
    train_dir = "imagenet21k_train"
    val_dir = "imagenet21k_val"

    def read_classnames(self) -> dict[str, str]:
        path = self.need("imagenet21k_miil_tree.pth")
        tree = load_checkpoint(str(path))
        if not isinstance(tree, dict) or not isinstance(tree.get("class_description"), dict):
            raise ValueError(f"{path} has no 'class_description' (WordNet id -> class name)")
        return {wnid: str(name) for wnid, name in tree["class_description"].items()}
