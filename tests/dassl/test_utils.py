import errno
import http.server
import os
import random
import sys
import threading
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from dassl.utils import (
    AverageMeter,
    BrokenImageError,
    Logger,
    MetricMeter,
    Registry,
    atomic_write,
    check_availability,
    check_isfile,
    collect_env_info,
    derive_seed,
    download_url,
    get_most_similar_str_to_a_from_b,
    listdir_nohidden,
    read_image,
    read_json,
    set_random_seed,
    setup_logger,
    sha256_of,
    tolist_if_not,
    write_json,
)


class TestRegistry:
    def test_names_keep_their_order(self):
        registry = Registry("THING")

        @registry.register()
        class Second: ...

        class First: ...

        assert registry.register(First) is None
        assert registry.registered_names() == ["Second", "First"]
        assert registry.get("First") is First and "Second" in registry

    def test_a_taken_name_needs_force(self):
        registry = Registry("THING")
        registry.register(dict)
        with pytest.raises(KeyError) as caught:
            registry.register(dict)
        assert str(caught.value) == 'An object named "dict" was already registered in "THING" registry'
        registry.register(dict, force=True)

    def test_an_unknown_name_is_told_its_neighbours(self):
        registry = Registry("THING")
        registry.register(dict)
        with pytest.raises(KeyError) as caught:
            registry.get("Dicts")
        assert str(caught.value) == 'Object name "Dicts" does not exist in "THING" registry; nearest: dict'

    def test_availability_and_similarity(self):
        assert get_most_similar_str_to_a_from_b("CoOp", ["CoCoOp", "MaPLe"]) == "CoCoOp"
        assert get_most_similar_str_to_a_from_b("xyz", ["abc", "def"]) == "def"  # equal ratios: the later one
        with pytest.raises(ValueError, match=r"\[CoOpp\] \(do you mean \[CoOp\]\?\)"):
            check_availability("CoOpp", ["CoOp", "MaPLe"])


class TestMeters:
    def test_weighted_average(self):
        meter = AverageMeter()
        meter.update(2.0, n=3)
        meter.update(torch.tensor([6.0]))
        assert (meter.val, meter.sum, meter.count, meter.avg) == (6.0, 12.0, 4, 3.0)

    def test_exponential_average(self):
        meter = AverageMeter(ema=True)
        meter.update(1.0)
        meter.update(2.0)
        assert meter.avg == pytest.approx(0.9 * 0.1 + 0.1 * 2.0)

    def test_tensors_are_not_read_until_asked(self):
        meter = AverageMeter()
        meter.update(torch.tensor(1.5, requires_grad=True))
        assert isinstance(meter._sum, torch.Tensor) and not meter._sum.requires_grad
        with pytest.raises(ValueError, match=r"\(2,\)"):
            meter.update(torch.zeros(2))

    def test_metric_meter_prints_in_first_seen_order(self):
        meter = MetricMeter()
        meter.update({"loss": torch.tensor(1.0), "acc": 50})
        meter.update(None)
        meter.update({"acc": 100, "loss": 2})
        assert str(meter) == "loss 2.0000 (1.5000) acc 100.0000 (75.0000)"
        with pytest.raises(TypeError, match="float"):
            meter.update(1.0)


class TestLogger:
    def test_tee_keeps_the_console_usable(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(sys, "stdout", sys.stdout)
        console = sys.stdout
        setup_logger(str(tmp_path))
        print("first")
        assert sys.stdout.isatty() == console.isatty() and sys.stdout.encoding == console.encoding
        assert (tmp_path / "log.txt").read_text() == "first\n"
        sys.stdout.flush()
        setup_logger(str(tmp_path))  # log.txt exists: a name with the time, and the first file gets no more
        print("second")
        logs = sorted(path.name for path in tmp_path.iterdir())
        assert logs[0] == "log.txt" and logs[1].startswith("log.txt-2") and len(logs[1]) == len("log.txt") + 20
        assert (tmp_path / "log.txt").read_text() == "first\n"
        assert (tmp_path / logs[1]).read_text() == "second\n"
        sys.stdout.close()
        assert not console.closed
        print("third")
        assert capsys.readouterr().out == "first\nsecond\nthird\n"

    def test_a_log_file_can_be_named(self, tmp_path):
        with Logger(str(tmp_path / "new" / "run.log")) as logger:
            logger.write("x")
        assert (tmp_path / "new" / "run.log").read_text() == "x"

    def test_no_output_no_logger(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", sys.stdout)
        before = sys.stdout
        setup_logger(None)
        assert sys.stdout is before


class TestFiles:
    def test_json_format_and_errors(self, tmp_path):
        path = tmp_path / "a" / "b.json"
        write_json({"x": [1]}, str(path))
        assert path.read_text() == '{\n    "x": [\n        1\n    ]\n}'
        assert read_json(str(path)) == {"x": [1]}
        path.write_text("{")
        with pytest.raises(ValueError, match=r"b\.json"):
            read_json(str(path))

    def test_listing(self, tmp_path):
        for name in ("b", "a", ".hidden"):
            (tmp_path / name).touch()
        assert listdir_nohidden(str(tmp_path), sort=True) == ["a", "b"]
        assert check_isfile(str(tmp_path / "a"))
        with pytest.warns(UserWarning, match="No file found at"):
            assert not check_isfile(str(tmp_path / "c"))
        assert tolist_if_not([1]) == [1] and tolist_if_not((1,)) == [(1,)]

    def test_an_interrupted_write_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with pytest.raises(KeyboardInterrupt), atomic_write(str(path)) as file:
            file.write(b"new")
            raise KeyboardInterrupt
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]

    def test_a_full_disk_is_told_and_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        message = "disk is full; the previous file is unchanged"
        with pytest.raises(OSError, match=message) as caught, atomic_write(str(path)) as file:
            file.write(b"new")
        assert str(path) in str(caught.value) and caught.value.errno == errno.ENOSPC
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


class TestImages:
    def test_any_mode_becomes_rgb(self, tmp_path):
        path = tmp_path / "grey.png"
        Image.new("L", (3, 2), 7).save(path)
        image = read_image(str(path))
        assert image.mode == "RGB" and image.size == (3, 2) and image.getpixel((0, 0)) == (7, 7, 7)

    def test_broken_images_are_named(self, tmp_path):
        path = tmp_path / "cut.jpg"
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:600])
        with pytest.raises(BrokenImageError, match=r"cut\.jpg"):
            read_image(str(path))
        path.write_bytes(b"no image")
        with pytest.raises(BrokenImageError, match=r"cut\.jpg"):
            read_image(str(path))
        with pytest.raises(FileNotFoundError, match=r"absent\.jpg"):
            read_image(str(tmp_path / "absent.jpg"))


class TestSeeds:
    def test_every_generator_is_seeded_zero_included(self):
        def draw() -> tuple[float, ...]:
            return random.random(), float(np.random.rand()), float(torch.rand(()))

        set_random_seed(0)
        first = draw()
        set_random_seed(1)
        other = draw()
        set_random_seed(0)
        assert draw() == first and all(a != b for a, b in zip(first, other))

    def test_derived_seeds_are_recorded(self):
        assert derive_seed(1, 2) == derive_seed(1, 2)
        assert len({derive_seed(a, b) for a in range(30) for b in range(30)}) == 900
        assert all(0 <= derive_seed(a) < 2**32 for a in range(100))


def test_environment_report_ends_with_pillow():
    import PIL

    last = collect_env_info().splitlines()[-1]
    assert last == f"        Pillow ({PIL.__version__})"


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves files with byte ranges; cuts the first whole download short."""

    cut = True

    def do_GET(self) -> None:
        data = (self.directory_path / self.path[1:]).read_bytes()
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data) // 2 if self.cut and not start else len(data)
        self.wfile.write(data[start:end])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file").write_bytes(bytes(range(256)) * 40)
    handler = type("Handler", (_Ranges,), {"directory_path": folder})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=partial(httpd.serve_forever, poll_interval=0.01))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/file", folder / "file"
        httpd.shutdown()
        thread.join()


class TestDownload:
    def test_a_cut_connection_is_resumed(self, server, tmp_path):
        url, original = server
        target = tmp_path / "new" / "file"
        with pytest.raises(OSError, match="again to resume"):
            download_url(url, str(target))
        assert not target.exists()
        download_url(url, str(target), sha256=sha256_of(str(original)))
        assert target.read_bytes() == original.read_bytes() and os.listdir(target.parent) == ["file"]

    def test_a_wrong_digest_is_refused(self, server, tmp_path):
        url, original = server
        (tmp_path / "file.part").write_bytes(original.read_bytes())
        with pytest.raises(ValueError, match="expected 00"):
            download_url(url, str(tmp_path / "file"), sha256="00")
        assert not (tmp_path / "file").exists() and not (tmp_path / "file.part").exists()

    def test_an_absent_file_is_named(self, tmp_path):
        with pytest.raises(OSError, match="cannot download"):
            download_url((tmp_path / "absent").as_uri(), str(tmp_path / "x"))
