"""Data sets: importing this package registers them all."""

import sys
from importlib.metadata import distributions

from .caltech101 import Caltech101 as Caltech101
from .dtd import DescribableTextures as DescribableTextures
from .embedded import EMBEDDED as EMBEDDED
from .eurosat import EuroSAT as EuroSAT
from .fgvc_aircraft import FGVCAircraft as FGVCAircraft
from .folder import CSV as CSV
from .folder import Folder as Folder
from .food101 import Food101 as Food101
from .imagenet import ImageNet as ImageNet
from .imagenet_21k import ImageNet21K as ImageNet21K
from .imagenet_a import ImageNetA as ImageNetA
from .imagenet_r import ImageNetR as ImageNetR
from .imagenet_sketch import ImageNetSketch as ImageNetSketch
from .imagenetv2 import ImageNetV2 as ImageNetV2
from .oxford_flowers import OxfordFlowers as OxfordFlowers
from .oxford_pets import OxfordPets as OxfordPets
from .stanford_cars import StanfordCars as StanfordCars
from .sun397 import SUN397 as SUN397
from .ucf101 import UCF101 as UCF101

for _other in distributions(name="datasets"):  # Hugging Face's
    sys.stderr.write(
        f"datasets: imported from {__path__[0]}, but {_other.name} {_other.version} is installed too and brings a"
        " package of this name; only one of them can be imported: give this project an environment of its own\n"
    )
