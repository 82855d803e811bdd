"""Where each published data set comes from: size, terms, and the places of its files.

Checksums are those that publishers or other libraries state; a source without one is checked no further than that it
can be unpacked, and ``python -m tools.data verify`` compares what comes out of it.
"""

from typing import NamedTuple


class Source(NamedTuple):
    """A place to get a file or an archive.

    url:    ``https://...``, ``gdrive:<file id>/<file name>`` for Google Drive, or ``manual:<file name>`` for what only
            people can get; a file of that name in the data set's folder is taken in place of any download.
    digest: ``md5:...`` or ``sha256:...``; empty where none is published.
    inner:  what of an archive becomes the part's path, ``{}`` standing for that path; ``a.tar!b`` is b in the archive
            a in the archive.
    """

    url: str
    digest: str = ""
    inner: str = "{}"

    @property
    def file(self) -> str:
        """File name, without the query of a URL."""
        return self.url.split("?")[0].rpartition("/")[2].removeprefix("manual:")


class Part(NamedTuple):
    """Files or folders that come together, below the data set's folder.

    accepts:       other places where it may lie; readers find it there.
    class_folders: whether the path is a folder of class folders, as opposed to images in a heap.
    """

    paths: tuple[str, ...]
    sources: tuple[Source, ...]
    accepts: tuple[str, ...] = ()
    class_folders: bool = False

    @property
    def is_split(self) -> bool:
        return self.paths[0].startswith("split_zhou_")


class Entry(NamedTuple):
    """A data set. ``size_gb`` is that of the download; ``advice`` is for when fetching fails or is not possible."""

    size_gb: float | None
    terms: str
    parts: tuple[Part, ...]
    advice: str = ""

    @property
    def how(self) -> str:
        """One word or two for the list."""
        manual = [part for part in self.parts if all(source.url.startswith("manual:") for source in part.sources)]
        return "account needed" if manual else "fetch or by hand" if self.advice else "fetch"


SPLITS_MIRROR = (
    "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/c7e7e68ae4eeadfab98e7886b2d6c9cf48a7ceb5/splits"
)
OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
STANFORD = "http://ai.stanford.edu/~jkrause/car196"
HUGGING_FACE = "https://huggingface.co/datasets"
IMAGENET_ADVICE = (
    "ImageNet needs a free account at https://image-net.org: download ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar "
    "and ILSVRC2012_devkit_t12.tar.gz into the data set's folder and run this again, or link the folders that you have"
)


def split_file(name: str, drive_id: str, sha256: str = "") -> Part:
    """The authors' split: a checked public copy where there is one, else the authors' Google Drive file.

    No checksum of the Drive files themselves is published.
    """
    file = f"split_zhou_{name}.json"
    mirror = (Source(f"{SPLITS_MIRROR}/{file}", f"sha256:{sha256}"),) if sha256 else ()
    return Part((file,), (*mirror, Source(f"gdrive:{drive_id}/{file}")))


def folder(path: str, *sources: Source, accepts: tuple[str, ...] = (), class_folders: bool = False) -> Part:
    """A folder of images."""
    return Part((path,), sources, accepts, class_folders)


CATALOG: dict[str, Entry] = {
    "ImageNet": Entry(
        144,
        "image-net.org: non-commercial research",
        (
            folder(
                "images/train",
                Source("manual:ILSVRC2012_img_train.tar", "md5:1d675b47d978889d74fa0da5fadfb00e"),
                accepts=("ILSVRC/Data/CLS-LOC/train", "train"),
                class_folders=True,
            ),
            folder(
                "images/val",
                Source("manual:ILSVRC2012_img_val.tar", "md5:29b22e2961454d5413ddabcf34fc5622", inner="."),
                accepts=("ILSVRC/Data/CLS-LOC/val", "val"),
                class_folders=True,
            ),
        ),
        IMAGENET_ADVICE,
    ),
    "Caltech101": Entry(
        0.14,
        "CC BY 4.0",
        (
            split_file(
                "Caltech101",
                "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN",
                "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5",
            ),
            folder(
                "101_ObjectCategories",
                Source(
                    "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                    "md5:3138e1922a9193bfa496528edbbc45d0",
                    inner="caltech-101/101_ObjectCategories.tar.gz!{}",
                ),
                Source("http://www.vision.caltech.edu/Image_Datasets/Caltech101/101_ObjectCategories.tar.gz"),
            ),
        ),
    ),
    "OxfordPets": Entry(
        0.79,
        "CC BY-SA 4.0",
        (
            split_file(
                "OxfordPets",
                "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs",
                "d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e",
            ),
            folder(
                "images",
                Source(f"{OXFORD}/pets/data/images.tar.gz", "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c"),
                Source(
                    "https://thor.robots.ox.ac.uk/~vgg/data/pets/images.tar.gz", "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c"
                ),
            ),
        ),
    ),
    "StanfordCars": Entry(
        1.96,
        "non-commercial research",
        (
            split_file(
                "StanfordCars",
                "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT",
                "40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d",
            ),
            folder("cars_train", Source(f"{STANFORD}/cars_train.tgz", "md5:065e5b463ae28d29e77c1b4b166cfe61")),
            folder("cars_test", Source(f"{STANFORD}/cars_test.tgz", "md5:4ce7ebf6a94d07f1952d94dd34c4d501")),
        ),
        "Stanford's server has been off for years: put cars_train.tgz and cars_test.tgz from elsewhere into the data "
        "set's folder (checksums are compared), or folders cars_train and cars_test as torchvision lays them out",
    ),
    "OxfordFlowers": Entry(
        0.34,
        "not stated",
        (
            split_file(
                "OxfordFlowers",
                "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT",
                "2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794",
            ),
            folder("jpg", Source(f"{OXFORD}/flowers/102/102flowers.tgz", "md5:52808999861908f626f3c1f4e79d11fa")),
        ),
    ),
    "Food101": Entry(
        5.0,
        "license_agreement.txt in the archive",
        (
            split_file("Food101", "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
            folder(
                "images",
                Source(
                    "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                    "md5:85eeb15f3717b99a5da872d97d918f87",
                    inner="food-101/{}",
                ),
            ),
        ),
    ),
    "FGVCAircraft": Entry(
        2.75,
        "non-commercial research",
        (
            Part(
                ("images", "variants.txt", *(f"images_variant_{part}.txt" for part in ("train", "val", "test"))),
                (
                    Source(
                        f"{OXFORD}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                        inner="fgvc-aircraft-2013b/data/{}",
                    ),
                ),
            ),
        ),
    ),
    "SUN397": Entry(
        39,
        "not stated",
        (
            split_file("SUN397", "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
            folder(
                "SUN397",
                Source(
                    "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                    "md5:8ca2778205c41d23104230ba66911c7a",
                ),
                accepts=("a",),
            ),
        ),
        "Princeton's server is often off: put SUN397.tar.gz from elsewhere into the data set's folder "
        "(its checksum is compared)",
    ),
    "DescribableTextures": Entry(
        0.63,
        "research only",
        (
            split_file(
                "DescribableTextures",
                "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x",
                "f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38",
            ),
            folder(
                "images",
                Source(
                    f"{OXFORD}/dtd/download/dtd-r1.0.1.tar.gz", "md5:fff73e5086ae6bdbea199a49dfb8a4c1", inner="dtd/{}"
                ),
                accepts=("dtd/images",),
            ),
        ),
    ),
    "EuroSAT": Entry(
        0.09,
        "MIT",
        (
            split_file(
                "EuroSAT",
                "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o",
                "541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2",
            ),
            folder(
                "2750",
                Source(
                    f"{HUGGING_FACE}/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                    "md5:c8fa014336c82ac7804f0398fcb19387",
                ),
                Source(
                    "https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip",
                    "md5:f46e308c4d50d4bf32fedad2d3d62f3b",
                    inner="EuroSAT_RGB",
                ),
                Source("http://madm.dfki.de/files/sentinel/EuroSAT.zip", "md5:c8fa014336c82ac7804f0398fcb19387"),
            ),
        ),
    ),
    "UCF101": Entry(
        None,
        "not stated",
        (
            split_file(
                "UCF101",
                "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y",
                "d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8",
            ),
            folder("UCF-101-midframes", Source("gdrive:10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O/UCF-101-midframes.zip")),
        ),
    ),
    "ImageNetV2": Entry(
        1.26,
        "MIT",
        (
            folder(
                "imagenetv2-matched-frequency-format-val",
                Source(f"{HUGGING_FACE}/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz"),
                Source(
                    "https://s3-us-west-2.amazonaws.com/imagenetv2public/imagenetv2-matched-frequency.tar.gz",
                ),
                accepts=("imagenetv2-matched-frequency",),
            ),
        ),
    ),
    "ImageNetSketch": Entry(
        7.6,
        "MIT",
        (
            folder(
                "images",
                Source(
                    f"{HUGGING_FACE}/songweig/imagenet_sketch/resolve/main/data/ImageNet-Sketch.zip", inner="sketch"
                ),
                Source("gdrive:1Mj0i5HBthqH1p_yeXzsg22gZduvgoNeA/ImageNet-Sketch.zip", inner="sketch"),
            ),
        ),
    ),
    "ImageNetA": Entry(
        0.69,
        "MIT",
        (
            folder(
                "imagenet-a",
                Source(
                    "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar", "md5:c3e55429088dc681f30d81f4726b6595"
                ),
            ),
        ),
    ),
    "ImageNetR": Entry(
        2.19,
        "MIT",
        (
            folder(
                "imagenet-r",
                Source(
                    "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar", "md5:a61312130a589d0ca1a8fca1f2bd3337"
                ),
            ),
        ),
    ),
    "ImageNet21K": Entry(
        250,
        "image-net.org: non-commercial research",
        (
            Part(
                ("imagenet21k_miil_tree.pth",),
                (
                    Source(
                        "https://miil-public-eu.oss-eu-central-1.aliyuncs.com/model-zoo/ImageNet_21K_P/resources/winter21/"
                        "imagenet21k_miil_tree.pth"
                    ),
                ),
            ),
            Part(
                ("imagenet21k_train", "imagenet21k_val"),
                (Source("manual:imagenet21k_resized.tar.gz", inner="imagenet21k_resized/{}"),),
                accepts=("shards",),
            ),
        ),
        "ImageNet-21K-P needs a free account at https://image-net.org: download imagenet21k_resized.tar.gz (winter "
        "2021, processed) into the data set's folder and run this again, link the folders that you have, or get shards "
        "(--shards)",
    ),
}
