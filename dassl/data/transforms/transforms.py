"""From a PIL image to a tensor, for training and for testing.

The operations are torchvision's. The order in which they run is fixed; ``INPUT.TRANSFORMS`` only chooses among them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms import ToTensor, v2
from torchvision.transforms.functional import InterpolationMode
from yacs.config import CfgNode

from dassl.data.transforms.randaugment import RandAugment2
from dassl.utils import log
from dassl.utils.registry import nearest_names

__all__ = ["AT_TEST", "AVAI_CHOICES", "INTERPOLATION_MODES", "Pipeline", "build_transform"]

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}

AVAI_CHOICES = [
    "random_flip",
    "random_resized_crop",
    "normalize",
    "instance_norm",
    "random_crop",
    "random_translation",
    "center_crop",
    "cutout",
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
    "randaugment",
    "randaugment_fixmatch",
    "randaugment2",
    "gaussian_noise",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
]

Step = tuple[str, Callable]  # the line that is printed, and the operation


class Cutout:
    """Set ``n_holes`` squares of ``length`` pixels at random centres to 0; they may stick out of the image."""

    def __init__(self, n_holes: int, length: int) -> None:
        self.n_holes = n_holes
        self.length = length

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        mask = torch.ones(height, width)
        for _ in range(self.n_holes):
            top = int(torch.randint(height, ())) - self.length // 2
            left = int(torch.randint(width, ())) - self.length // 2
            mask[max(top, 0) : max(top + self.length, 0), max(left, 0) : max(left + self.length, 0)] = 0
        return image * mask


class InstanceNormalization:
    """Give every channel of the image mean 0 and standard deviation 1."""

    def __call__(self, image: Tensor) -> Tensor:
        mean = image.mean(dim=(-2, -1), keepdim=True)
        std = image.std(dim=(-2, -1), keepdim=True)
        return (image - mean) / (std + 1e-8)


def build_transform(cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None) -> Callable | None:
    """The training or test pipeline: PIL image -> float32 tensor (3, H, W); ``None`` with ``INPUT.NO_TRANSFORM``.

    ``choices`` replaces ``INPUT.TRANSFORMS``. ``ValueError`` for an unknown name.
    """
    if cfg.INPUT.NO_TRANSFORM:
        log.info("Note: no transform is applied!")
        return None
    chosen = cfg.INPUT.TRANSFORMS if choices is None else choices
    for name in chosen:
        if name not in AVAI_CHOICES:
            near = nearest_names(name, AVAI_CHOICES) or AVAI_CHOICES
            raise ValueError(f'INPUT.TRANSFORMS: unknown transform "{name}"; try {", ".join(near)}')
    if cfg.INPUT.INTERPOLATION not in INTERPOLATION_MODES:
        modes = ", ".join(INTERPOLATION_MODES)
        raise ValueError(f'INPUT.INTERPOLATION must be one of {modes}, but got "{cfg.INPUT.INTERPOLATION}"')
    log.info(f"Building transform_{'train' if is_train else 'test'}")
    steps = _train_steps(cfg, chosen) if is_train else _test_steps(cfg, chosen)
    for line, _ in steps:
        log.info(f"+ {line}")
    return Pipeline([operation for _, operation in steps])


class Pipeline(v2.Compose):
    """PIL image -> float32 (3, H, W). As bytes it is a quarter as large: loaders send it like that where they can."""

    def halves(self) -> tuple[Callable, v2.Normalize | None] | None:
        """Up to bytes, uint8 (3, H, W), and the normalisation, if there is one, that follows the division by 255. None
        if more is done to the floats."""
        kinds = [type(step) for step in self.transforms]
        if kinds[-1:] == [v2.Normalize]:
            steps, normalize = self.transforms[:-1], self.transforms[-1]
        else:
            steps, normalize = self.transforms, None
        if not steps or type(steps[-1]) is not ToTensor:
            return None
        return v2.Compose([*steps[:-1], v2.PILToTensor()]), normalize


def _test_steps(cfg: CfgNode, chosen: Sequence[str]) -> list[Step]:
    """CLIP's own preprocessing for a square ``INPUT.SIZE``."""
    height, width = cfg.INPUT.SIZE
    smaller = max(height, width)
    steps: list[Step] = [
        (f"resize the smaller edge to {smaller}", v2.Resize(smaller, _interpolation(cfg))),
        (f"{height}x{width} center crop", v2.CenterCrop((height, width))),
    ]
    return steps + [step for name, step in _tensor_steps(cfg) if name in ("to_tensor", *chosen) and name in AT_TEST]


def _train_steps(cfg: CfgNode, chosen: Sequence[str]) -> list[Step]:
    height, width = cfg.INPUT.SIZE
    steps: list[Step] = []
    if "random_crop" not in chosen and "random_resized_crop" not in chosen:
        steps.append((f"resize to {height}x{width}", v2.Resize((height, width), _interpolation(cfg))))
    table = _geometry_steps(cfg) + _colour_steps(cfg) + _tensor_steps(cfg)
    return steps + [step for name, step in table if name in ("to_tensor", *chosen)]


def _interpolation(cfg: CfgNode) -> InterpolationMode:
    return INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]


def _geometry_steps(cfg: CfgNode) -> list[tuple[str, Step]]:
    size, i = tuple(cfg.INPUT.SIZE), cfg.INPUT
    larger = [round(side * 1.125) for side in size]
    translation = v2.RandomChoice([v2.Resize(size), v2.Compose([v2.Resize(larger), v2.RandomCrop(size)])])
    resized_crop = v2.RandomResizedCrop(size, scale=i.RRCROP_SCALE, interpolation=_interpolation(cfg))
    return [
        ("random_translation", ("random translation", translation)),
        ("random_crop", (f"random crop (padding = {i.CROP_PADDING})", v2.RandomCrop(size, padding=i.CROP_PADDING))),
        ("random_resized_crop", (f"random resized crop (size={size}, scale={tuple(i.RRCROP_SCALE)})", resized_crop)),
        ("random_flip", ("random flip", v2.RandomHorizontalFlip())),
    ]


def _colour_steps(cfg: CfgNode) -> list[tuple[str, Step]]:
    """``randaugment_fixmatch`` draws n operations of torchvision's ``TrivialAugmentWide``, each of random strength."""
    i = cfg.INPUT
    n, m = i.RANDAUGMENT_N, i.RANDAUGMENT_M
    b, c, s, h = i.COLORJITTER_B, i.COLORJITTER_C, i.COLORJITTER_S, i.COLORJITTER_H
    jitter = f"color jitter (brightness={b}, contrast={c}, saturation={s}, hue={h})"
    policy = v2.AutoAugmentPolicy
    return [
        ("imagenet_policy", ("imagenet policy", v2.AutoAugment(policy.IMAGENET))),
        ("cifar10_policy", ("cifar10 policy", v2.AutoAugment(policy.CIFAR10))),
        ("svhn_policy", ("svhn policy", v2.AutoAugment(policy.SVHN))),
        ("randaugment", (f"randaugment (n={n}, m={m})", v2.RandAugment(n, m))),
        ("randaugment_fixmatch", (f"randaugment_fixmatch (n={n})", v2.Compose([v2.TrivialAugmentWide()] * max(n, 1)))),
        ("randaugment2", (f"randaugment2 (n={n})", RandAugment2(n))),
        ("colorjitter", (jitter, v2.ColorJitter(b, c, s, h))),
        ("randomgrayscale", ("random gray scale", v2.RandomGrayscale(i.RGS_P))),
        (
            "gaussian_blur",
            (f"gaussian blur (kernel={i.GB_K})", v2.RandomApply([v2.GaussianBlur(i.GB_K)], p=i.GB_P)),
        ),
    ]


AT_TEST = ("to_tensor", "normalize", "instance_norm")


def _tensor_steps(cfg: CfgNode) -> list[tuple[str, Step]]:
    i = cfg.INPUT
    noise = v2.RandomApply([v2.GaussianNoise(i.GN_MEAN, i.GN_STD, clip=False)], p=0.5)
    return [
        # The first edition of ToTensor divides by 255 exactly as CLIP's preprocessing does; v2 multiplies by 1 / 255.
        ("to_tensor", ("to torch tensor of range [0, 1]", ToTensor())),
        ("cutout", (f"cutout (n_holes={i.CUTOUT_N}, length={i.CUTOUT_LEN})", Cutout(i.CUTOUT_N, i.CUTOUT_LEN))),
        (
            "normalize",
            (
                f"normalization (mean={list(i.PIXEL_MEAN)}, std={list(i.PIXEL_STD)})",
                v2.Normalize(i.PIXEL_MEAN, i.PIXEL_STD),
            ),
        ),
        ("gaussian_noise", (f"gaussian noise (mean={i.GN_MEAN}, std={i.GN_STD})", noise)),
        ("instance_norm", ("instance normalization", InstanceNormalization())),
    ]
