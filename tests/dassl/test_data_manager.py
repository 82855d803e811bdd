import random

import pytest
import torch
from PIL import Image
from torch._utils import ExceptionWrapper
from torch.utils.data import RandomSampler, SequentialSampler

from dassl.data import DataManager, DatasetWrapper, cache, data_manager
from dassl.data.cache import CachedDatum, cache_in_ram
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import Datum
from dassl.data.transforms import build_transform
from dassl.utils import BrokenImageError, set_random_seed
from tests.dassl.toy import squares, toy_cfg


def wrapper(*opts: object, is_train: bool = True, data_source=None, **kwargs: object) -> DatasetWrapper:
    cfg = toy_cfg("x", *opts)
    kwargs.setdefault("transform", build_transform(cfg, is_train=is_train))
    return DatasetWrapper(cfg, data_source or squares("train", 9), is_train=is_train, **kwargs)


@pytest.fixture
def photos(tmp_path):
    """Five image files, of which numbers 1 and 2 cannot be decoded."""
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        Image.new("RGB", (10, 10), (40 * i,) * 3).save(path)
    for path in paths[1:3]:
        path.write_bytes(path.read_bytes()[:50])
    return [Datum(str(path), i % 3, 0, "abc"[i % 3]) for i, path in enumerate(paths)]


class TestItems:
    def test_keys(self):
        item = wrapper()[10]
        assert {**item, "img": None} == {
            "img": None,
            "label": 1,
            "domain": 0,
            "impath": "train/1/1",
            "index": 10,
        }
        assert item["img"].shape == (3, 8, 8) and item["img"].dtype == torch.float32

    def test_several_views(self):
        views = wrapper("DATALOADER.K_TRANSFORMS", 3)[0]["img"]
        assert len(views) == 3 and all(view.shape == (3, 8, 8) for view in views)
        assert wrapper("DATALOADER.K_TRANSFORMS", 3, is_train=False)[0]["img"].shape == (3, 8, 8)
        with pytest.raises(ValueError, match="K_TRANSFORMS is 2"):
            wrapper("DATALOADER.K_TRANSFORMS", 2, transform=None)

    def test_several_transforms_and_none(self):
        item = wrapper(transform=[lambda image: 1, lambda image: 2, None])[0]
        assert (item["img"], item["img2"], item["img3"].size) == (1, 2, (12, 8))

    def test_image_without_augmentation(self):
        item = wrapper("DATALOADER.RETURN_IMG0", True, "INPUT.TRANSFORMS", ())[0]
        assert torch.allclose(item["img0"], torch.tensor([60, 30, 30]).view(3, 1, 1).expand(3, 8, 8) / 255)

    def test_augmentation_is_a_function_of_seed_and_index(self):
        data = wrapper("DATALOADER.K_TRANSFORMS", 2, "INPUT.TRANSFORMS", ("colorjitter",))
        data.set_seed(1)
        set_random_seed(0)
        before = torch.get_rng_state(), random.getstate()
        first = [torch.stack(data[i]["img"]) for i in range(9)]
        assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
        assert all(torch.equal(torch.stack(data[i]["img"]), first[i]) for i in (3, 1))
        data.set_seed(2)
        assert not any(torch.equal(torch.stack(data[i]["img"]), first[i]) for i in range(9))


class TestLoaders:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_batches_do_not_depend_on_the_number_of_workers(self, workers, monkeypatch):
        """Also in a second epoch, whose workers are those of the first."""
        monkeypatch.setattr(data_manager, "cpu_count", lambda: 2)

        def epochs(count: int) -> list[torch.Tensor]:
            cfg = toy_cfg("x", "DATALOADER.NUM_WORKERS", count, "INPUT.TRANSFORMS", ("randaugment2", "gaussian_noise"))
            loader = build_data_loader(cfg, "RandomSampler", squares("train", 9), 8, tfm=build_transform(cfg))
            assert loader.num_workers == count and loader.persistent_workers == (count > 0)
            batches = []
            for seed in (7, 8):
                set_random_seed(seed)
                loader.dataset.set_seed(seed)
                batches += [torch.cat([batch["img"].flatten(), batch["index"]]) for batch in loader]
            return batches

        ours, alone = epochs(workers), epochs(0)
        assert len(ours) == 6 and all(torch.equal(a, b) for a, b in zip(ours, alone))

    @pytest.mark.parametrize(
        ("count", "batch_size", "is_train", "batches"), [(9, 8, True, 3), (1, 8, True, 1), (9, 8, False, 4)]
    )
    def test_only_a_full_training_set_drops_its_last_batch(self, count, batch_size, is_train, batches):
        loader = build_data_loader(
            toy_cfg("x"), "SequentialSampler", squares("t", count), batch_size, tfm=lambda image: 0, is_train=is_train
        )
        assert len(loader) == batches

    def test_no_more_workers_than_batches_and_cpus(self, monkeypatch):
        monkeypatch.setattr(data_manager, "cpu_count", lambda: 2)
        cfg = toy_cfg("x", "DATALOADER.NUM_WORKERS", 8)
        assert build_data_loader(cfg, data_source=squares("t", 9), batch_size=4).num_workers == 2
        assert build_data_loader(cfg, data_source=squares("t", 1), batch_size=4).num_workers == 1

    def test_an_empty_list_is_an_error(self):
        with pytest.raises(ValueError, match="no images"):
            build_data_loader(toy_cfg("x"), data_source=[])


class TestBrokenImages:
    def test_they_are_an_error_that_names_the_file(self, photos):
        loader = build_data_loader(toy_cfg("x"), data_source=photos, batch_size=2, tfm=lambda image: 0)
        with pytest.raises(BrokenImageError) as caught:
            list(loader)
        assert str(caught.value).startswith(f'Cannot read the image "{photos[1].impath}"')

    def test_the_error_of_a_worker_reads_the_same(self):
        try:
            raise BrokenImageError("Cannot read the image a.jpg: truncated")
        except BrokenImageError:
            wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
        with pytest.raises(BrokenImageError) as caught:
            wrapped.reraise()
        assert str(caught.value) == "Cannot read the image a.jpg: truncated"

    def test_training_takes_the_next_readable_one(self, photos):
        data = wrapper("DATALOADER.SKIP_BROKEN", True, data_source=photos[:3])
        assert data[0]["index"] == 0
        with pytest.warns(UserWarning, match=r"skipped: .*\.png"):
            assert (data[1]["index"], data[1]["impath"]) == (0, photos[0].impath)
        hopeless = wrapper("DATALOADER.SKIP_BROKEN", True, data_source=photos[1:3])
        with pytest.warns(UserWarning, match="skipped"), pytest.raises(BrokenImageError, match="none of the 2 images"):
            hopeless[0]

    def test_evaluation_drops_them(self, photos):
        cfg = toy_cfg("x", "DATALOADER.SKIP_BROKEN", True)
        tfm = build_transform(cfg, is_train=False)
        loader = build_data_loader(cfg, data_source=photos[1:], batch_size=2, tfm=tfm, is_train=False)
        with pytest.warns(UserWarning, match="skipped"):
            batches = list(loader)
        assert batches[0] is None and batches[1]["index"].tolist() == [2, 3]


class TestDataManager:
    def test_loaders_and_summary(self, capsys):
        dm = DataManager(toy_cfg("x", "DATASET.NUM_SHOTS", 4))
        assert (dm.num_classes, dm.num_source_domains, dm.train_loader_u) == (3, 0, None)
        assert dm.lab2cname == {0: "red", 1: "green", 2: "blue_sky"}
        assert isinstance(dm.train_loader_x.sampler, RandomSampler)
        assert isinstance(dm.val_loader.sampler, SequentialSampler) and dm.test_loader.batch_size == 5
        assert sum(len(batch["label"]) for batch in dm.test_loader) == 12
        table = capsys.readouterr().out.splitlines()[-7:]
        assert table[0] == table[-1] and set(table[0]) == {"-", " "}
        assert [line.split() for line in table[1:-1]] == [
            ["Dataset", "Squares"],
            ["#", "classes", "3"],
            ["#", "train_x", "12"],
            ["#", "val", "6"],
            ["#", "test", "12"],
        ]

    def test_no_validation_images_no_loader(self):
        assert DataManager(toy_cfg("x", "DATASET.NAME", "SquaresWithoutVal")).val_loader is None

    def test_custom_transform(self, capsys):
        dm = DataManager(toy_cfg("x"), custom_tfm_test=lambda image: image.width)
        assert next(iter(dm.test_loader))["img"].tolist() == [12] * 5
        assert "* Using custom transform for testing" in capsys.readouterr().out


class TestRamCache:
    def test_images_are_decoded_once(self, capsys, monkeypatch):
        items = squares("train", 9)
        cached = cache_in_ram(items, "training")
        assert cached == items
        monkeypatch.setattr(type(items[0]), "load", lambda self: pytest.fail("decoded again"))
        assert cached[20].load().getpixel((0, 0)) == (30, 30, 76)
        assert capsys.readouterr().out == "Caching 27 training images, 0.00 GB decoded\n"

    def test_too_little_memory_is_told(self, capsys, monkeypatch):
        monkeypatch.setattr(cache, "_free_memory", lambda: 9000)
        items = squares("train", 9)
        assert cache_in_ram(items, "training") is items
        assert capsys.readouterr().out.startswith("Not cached: 27 training images, 0.00 GB decoded, with 0.00 GB")

    def test_size_estimate_and_broken_files(self, photos):
        assert cache._decoded_bytes(photos) == 5 * 300
        with pytest.raises(BrokenImageError):
            cache_in_ram(photos, "training")[1].load()
        assert cache._free_memory() > 1e6

    def test_it_is_chosen_by_name(self, capsys):
        """And done when all else is checked, as decoding takes a while."""
        dm = DataManager(toy_cfg("x", "DATALOADER.CACHE", "ram"))
        assert "Caching" not in capsys.readouterr().out
        dm.cache_images()
        assert "Caching 27 training images" in capsys.readouterr().out
        assert all(isinstance(item, CachedDatum) for item in dm.train_loader_x.dataset.data_source)
        assert all(isinstance(item, CachedDatum) for item in dm.val_loader.dataset.data_source)
        assert len(list(dm.train_loader_x)) == 3
        plain = DataManager(toy_cfg("x"))
        plain.cache_images()
        assert plain.train_loader_x.dataset.data_source is plain.dataset.train_x
        with pytest.raises(ValueError, match='"none" or "ram", but got "disk"'):
            DataManager(toy_cfg("x", "DATALOADER.CACHE", "disk"))
