import random

import open_clip.transform
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from dassl.data.transforms import INTERPOLATION_MODES, build_transform
from dassl.data.transforms.randaugment import OPERATIONS, RandAugment2
from dassl.data.transforms.transforms import AVAI_CHOICES
from tests.dassl.toy import toy_cfg

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def picture(width: int = 61, height: int = 47) -> Image.Image:
    generator = torch.Generator().manual_seed(width * height)
    pixels = torch.randint(256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((3 * width, 3 * height), Image.Resampling.BICUBIC)


def clip_cfg(*opts: object):
    return toy_cfg(
        "x",
        "INPUT.SIZE",
        (32, 32),
        "INPUT.INTERPOLATION",
        "bicubic",
        "INPUT.PIXEL_MEAN",
        CLIP_MEAN,
        "INPUT.PIXEL_STD",
        CLIP_STD,
        *opts,
    )


@pytest.mark.parametrize("size", [(61, 47), (47, 61), (40, 40), (9, 30)])
def test_the_test_pipeline_is_clips_own(size):
    image = picture(*size)
    expected = open_clip.transform.image_transform(32, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)(image)
    ours = build_transform(clip_cfg(), is_train=False)(image)
    assert ours.dtype == torch.float32 and torch.equal(ours, expected)


def test_test_pipeline_ignores_augmentation_and_prints_its_steps(capsys):
    build_transform(clip_cfg("INPUT.TRANSFORMS", ("cutout", "instance_norm", "random_flip")), is_train=False)
    assert capsys.readouterr().out.splitlines() == [
        "Building transform_test",
        "+ resize the smaller edge to 32",
        "+ 32x32 center crop",
        "+ to torch tensor of range [0, 1]",
        "+ instance normalization",
    ]


def test_training_order_is_fixed(capsys):
    build_transform(clip_cfg(), choices=AVAI_CHOICES[::-1])
    build_transform(clip_cfg(), choices=["normalize", "random_flip"])
    lines = [line.split(" (")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "Building transform_train",
        "+ random translation",
        "+ random crop",
        "+ random resized crop",
        "+ random flip",
        "+ imagenet policy",
        "+ cifar10 policy",
        "+ svhn policy",
        "+ randaugment",
        "+ randaugment_fixmatch",
        "+ randaugment2",
        "+ color jitter",
        "+ random gray scale",
        "+ gaussian blur",
        "+ to torch tensor of range [0, 1]",
        "+ cutout",
        "+ normalization",
        "+ gaussian noise",
        "+ instance normalization",
        "Building transform_train",
        "+ resize to 32x32",
        "+ random flip",
        "+ to torch tensor of range [0, 1]",
        "+ normalization",
    ]


@pytest.mark.parametrize("name", AVAI_CHOICES)
def test_every_transform_gives_a_tensor_of_the_size(name):
    torch.manual_seed(0)
    transform = build_transform(
        clip_cfg("INPUT.GB_K", 3), choices=[name] if name != "random_crop" else [name, "cutout"]
    )
    image = picture()
    views = [transform(image) for _ in range(12)]
    assert all(view.shape == (3, 32, 32) and view.isfinite().all() for view in views)
    deterministic = {"normalize", "instance_norm", "center_crop"}
    assert all(torch.equal(view, views[0]) for view in views) == (name in deterministic)


def test_the_familys_training_pipeline_equals_torchvisions():
    image = picture()
    ours = build_transform(clip_cfg("INPUT.RRCROP_SCALE", (0.3, 1.0)))
    mode = INTERPOLATION_MODES["bicubic"]
    torch.manual_seed(3)
    result = ours(image)
    torch.manual_seed(3)
    cropped = v2.RandomHorizontalFlip()(v2.RandomResizedCrop((32, 32), (0.3, 1.0), interpolation=mode)(image))
    pixels = torch.tensor(list(cropped.tobytes()), dtype=torch.float32).view(32, 32, 3).permute(2, 0, 1) / 255
    expected = (pixels - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    assert torch.allclose(result, expected, atol=1e-6)


def test_cutout_and_instance_norm():
    transform = build_transform(clip_cfg("INPUT.CUTOUT_LEN", 10), choices=["cutout"])
    view = transform(Image.new("RGB", (32, 32), (255, 255, 255)))
    zeros = int((view[0] == 0).sum())
    assert 25 <= zeros <= 100 and zeros + int((view[0] == 1).sum()) == 1024
    normed = build_transform(clip_cfg(), choices=["instance_norm"])(picture())
    assert torch.allclose(normed.mean((1, 2)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normed.std((1, 2)), torch.ones(3), atol=1e-4)


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (("INPUT.TRANSFORMS", ("random_flop",)), 'unknown transform "random_flop"; try random_flip'),
        (("INPUT.INTERPOLATION", "cubic"), 'bilinear, bicubic, nearest, but got "cubic"'),
    ],
)
def test_bad_settings(opts, words):
    with pytest.raises(ValueError, match=words):
        build_transform(clip_cfg(*opts))


def test_no_transform(capsys):
    assert build_transform(clip_cfg("INPUT.NO_TRANSFORM", True)) is None
    assert capsys.readouterr().out == "Note: no transform is applied!\n"


class TestRandAugment2:
    def test_draws_follow_the_published_procedure(self, monkeypatch):
        """Replay: one ``choices``; per entry a coin, a value, and a sign where the operation is symmetric."""
        image = picture()
        signed = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}
        for seed in range(30):
            random.seed(seed)
            result = RandAugment2(3)(image)
            after = random.random()
            random.seed(seed)
            expected = image
            for name, operation, low, high in random.choices(OPERATIONS, k=3):
                if random.random() > 0.6:
                    continue
                value = low + random.random() * (high - low)
                sign = -1 if name in signed and random.random() > 0.5 else 1
                with monkeypatch.context() as patch:
                    patch.setattr(random, "random", lambda: 0.0)  # the sign is drawn above
                    expected = operation(expected, sign * value)
            assert result.tobytes() == expected.tobytes() and random.random() == after

    def test_table(self):
        names = "AutoContrast Brightness Color Contrast Equalize Identity Invert Posterize Rotate Sharpness"
        names += " ShearX ShearY Solarize TranslateX TranslateY"
        assert " ".join(name for name, *_ in OPERATIONS) == names
        ranges = {name: (low, high) for name, _, low, high in OPERATIONS}
        assert ranges["Posterize"] == (4, 8) and ranges["Solarize"] == (0, 256) and ranges["Rotate"] == (-30, 30)
        assert ranges["Brightness"] == (0.1, 1.9) and ranges["TranslateY"] == (-0.3, 0.3)

    def test_operations_are_pils(self, monkeypatch):
        monkeypatch.setattr(random, "random", lambda: 0.0)
        image = picture()
        operations = {name: operation for name, operation, *_ in OPERATIONS}
        assert operations["Posterize"](image, 4.9).tobytes() == ImageOps.posterize(image, 4).tobytes()
        assert operations["Identity"](image, 1.0) is image
        moved = operations["TranslateX"](image, 0.25)
        offset = round(0.25 * image.width)
        assert moved.getpixel((10, 5)) == image.getpixel((10 + offset, 5))
        assert operations["Rotate"](image, 20.0).tobytes() == image.rotate(20).tobytes()
