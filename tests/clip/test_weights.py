"""Every file format loads to the same model; bad files and failed downloads say what is wrong."""

from __future__ import annotations

import hashlib
import pickle
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from torch import Tensor, nn

import clip
from clip.clip import architecture, download, load_model
from clip.model import CLIP
from clip.text import Texts
from clip.weights import build_model, read_weights, set_precision

from .small import SIZE, difference, small_clip

TEXTS = ["a photo of a cat.", "sea"]
Weights = dict[str, Tensor]


class Tree(nn.Module):
    """Tensors at dotted names, as a module that can be traced."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__()
        for name, tensor in tensors.items():
            *path, leaf = name.split(".")
            node: nn.Module = self
            for part in path:
                if part not in node._modules:
                    node.add_module(part, Tree({}))
                node = node._modules[part]
            if tensor.is_floating_point():
                node.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
            else:
                node.register_buffer(leaf, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return x


def halved_model() -> CLIP:
    """With values that fp16 holds, so that a file in fp16 loses nothing."""
    return set_precision(set_precision(small_clip(), "fp16"), "fp32")


@pytest.fixture(scope="module")
def reference() -> CLIP:
    return halved_model()


@pytest.fixture
def weights(reference: CLIP) -> Weights:
    return {key: value.clone() for key, value in reference.state_dict().items()}


def save_archive(path: Path) -> None:
    """As OpenAI's: TorchScript, matrices in fp16, three numbers besides the weights."""
    tensors = set_precision(halved_model(), "fp16").state_dict()
    numbers = {"input_resolution": SIZE, "context_length": 77, "vocab_size": 49408}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit")
        tree = Tree({**tensors, **{key: torch.tensor(value) for key, value in numbers.items()}})
        torch.jit.trace(tree, torch.zeros(1)).save(str(path))


def save_open_clip(path: Path, weights: Weights) -> None:
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in weights.items()}}, path)


def save_custom_text(path: Path, weights: Weights) -> None:
    """open_clip's ``CustomTextCLIP``: the text encoder's own names start with ``text.``."""
    elsewhere = ("visual.", "logit_scale")
    torch.save(
        {key if key.startswith(elsewhere) else f"text.{key}": value for key, value in weights.items()}
        | {"text.attn_mask": torch.zeros(77, 77)},
        path,
    )


SAVERS = {
    "archive.pt": lambda path, weights: save_archive(path),
    "plain.pth": lambda path, weights: torch.save(weights, path),
    "half.pth": lambda path, weights: torch.save(set_precision(halved_model(), "fp16").state_dict(), path),
    "model.safetensors": lambda path, weights: save_file(weights, path),
    "open_clip.pt": save_open_clip,
    "custom_text.bin": save_custom_text,
}


@pytest.mark.parametrize("name", SAVERS)
def test_every_format_gives_the_same_features(name: str, tmp_path: Path, reference: CLIP, weights: Weights) -> None:
    SAVERS[name](tmp_path / name, weights)
    model = load_model(path=str(tmp_path / name))
    image, tokens = torch.randn(2, 3, SIZE, SIZE), clip.tokenize(TEXTS)
    assert not model.training and model.dtype == torch.float32
    assert torch.equal(model.encode_image(image), reference.encode_image(image))
    assert torch.equal(model.encode_text(tokens), reference.encode_text(tokens))
    assert torch.equal(model.logit_scale, reference.logit_scale)


def test_open_clip_names_tell_activation_and_heads() -> None:
    assert architecture("ViT-B-16", "openai")["activation"] == "quick_gelu"
    assert architecture("ViT-B-16", "laion2b_s34b_b88k")["activation"] == "gelu"
    assert architecture("ViT-H-14", "") == {"activation": "gelu", "vision_heads": 16, "transformer_heads": 16}
    assert architecture("ViT-B-32-quickgelu", "")["activation"] == "quick_gelu"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("coca_ViT-B-32", "attentional_pool"),
        ("ViT-B-16-SigLIP", "timm_model_name"),
        ("RN50", "vision layers .3, 4, 6, 3."),
        ("nllb-clip-base", "hf_model_name"),
    ],
)
def test_other_architectures_of_open_clip_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not a plain CLIP ViT .*{reason}"):
        architecture(name, "")


def test_a_path_with_an_open_clip_name_uses_its_architecture(tmp_path: Path) -> None:
    vision = CLIPVisionCfg(layers=2, width=768, patch_size=16, image_size=32)
    theirs = open_clip.CLIP(64, vision, CLIPTextCfg(vocab_size=100, width=512, layers=1)).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.encode_image(image)
        assert difference(load_model("ViT-B-16", str(tmp_path / "weights.pt")).encode_image(image), expected) < 1e-5
        assert difference(load_model("", str(tmp_path / "weights.pt")).encode_image(image), expected) > 1e-3


def test_metadata_of_own_safetensors_tells_heads_and_vocabulary(tmp_path: Path) -> None:
    reference = small_clip(vision_heads=6, transformer_heads=4, activation="gelu")
    weights = {key: value.contiguous() for key, value in reference.state_dict().items()}
    known = Texts.from_strings(TEXTS).ids.unique()
    weights["token_embedding.weight"] = weights["token_embedding.weight"][known]
    weights["token_embedding.ids"] = known
    metadata = {"vision_heads": "6", "transformer_heads": "4", "activation": "gelu"}
    save_file(weights, tmp_path / "small.safetensors", metadata)
    model, _ = clip.load(str(tmp_path / "small.safetensors"), device="cpu")
    image, tokens = torch.randn(2, 3, SIZE, SIZE), clip.tokenize(TEXTS)
    assert torch.equal(model.encode_image(image), reference.encode_image(image))
    assert torch.equal(model.encode_text(tokens), reference.encode_text(tokens))
    assert model.vocab_size == 49408
    with pytest.raises(ValueError, match="does not know 'dog'"):
        model.encode_text(clip.tokenize("a photo of a dog."))


@pytest.mark.parametrize(
    "name, parameters, heads",
    [("ViT-B/16", 149_620_737, 8), ("RN50", 102_007_137, 8), ("ViT-L/14@336px", 427_944_193, 12)],
)
def test_random_weights_in_the_shapes_of_a_backbone(name: str, parameters: int, heads: int) -> None:
    """The published numbers of parameters, without a download."""
    with torch.device("meta"):
        model = load_model(f"random:{name}")
    assert sum(param.numel() for param in model.parameters()) == parameters
    assert model.transformer.resblocks[0].attn.heads == heads and not model.training
    assert model.source == (f"random:{name}", "")


def test_random_weights_in_the_shapes_of_the_tiny_model() -> None:
    tiny, model = load_model("tiny"), load_model("random:tiny")
    assert [t.shape for t in model.state_dict().values()] == [t.shape for t in tiny.state_dict().values()]
    assert tiny.known_tokens is not None and model.known_tokens is None
    assert not torch.equal(model.text_projection, tiny.text_projection)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No weights file at .*nothing\.pt"):
        load_model(path=str(tmp_path / "nothing.pt"))


@pytest.mark.parametrize("name", ["archive.pt", "plain.pth", "model.safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(name: str, part: float, tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / name
    SAVERS[name](path, weights)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=f"{name} is not a readable weights file .truncated"):
        read_weights(path)


class Payload:
    """Unpickled by the usual loader, it would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize("zipped", [True, False], ids=["torch.save", "bare pickle"])
def test_code_in_a_file_is_not_run(zipped: bool, tmp_path: Path, weights: Weights) -> None:
    path, proof = tmp_path / "evil.pt", tmp_path / "executed"
    content = {"state_dict": weights, "payload": Payload(proof)}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps({"payload": Payload(proof)}))
    with pytest.raises(ValueError, match=r"evil\.pt holds more than tensors and was not loaded"):
        load_model(path=str(path))
    assert not proof.exists()


class Bare(nn.Module):
    """A parameter, a buffer, and attributes that are no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).reshape(3, 4).half().t(), requires_grad=False)
        self.register_buffer("steps", torch.tensor(7))
        self.mask = torch.zeros(5)  # a tensor, but neither parameter nor buffer
        self.sizes = [1, 2]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mask[: len(self.sizes)].sum() + self.weight.sum()


class WritesAFile(Bare):
    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.mask, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.training = state[1]
        self.mask = torch.from_file("executed", shared=True, size=4)


class LoopsForEver(WritesAFile):
    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.training = state[1]
        self.mask = state[0]
        while True:
            self.mask = self.mask + 1


class ReadsAFile(WritesAFile):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Bare()

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.training = state[1]
        self.mask = torch.from_file("private", size=4, dtype=torch.uint8)


def save_script(module: nn.Module, path: Path) -> Weights:
    """Write a TorchScript archive; returns the state dict that TorchScript itself has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(module)
        script.save(str(path))
    return dict(script.state_dict())


def rewrite(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write an archive anew with ``change(name, content)`` of every entry."""
    with zipfile.ZipFile(path) as old:
        entries = {name: change(name, old.read(name)) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in entries.items():
            new.writestr(name, content)


def test_archives_give_the_state_dict_of_torchscript(tmp_path: Path) -> None:
    """Parameters and buffers at any depth, bit for bit; no other tensors; storages of a GPU come to the CPU."""
    path = tmp_path / "archive.pt"
    expected = save_script(nn.Sequential(Bare(), nn.Sequential(nn.Linear(3, 2).half(), Bare())), path)
    rewrite(path, lambda name, content: content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
    found, _ = read_weights(path)
    assert found.keys() == expected.keys() and "1.1.steps" in found and "0.mask" not in found
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype and found[name].is_cpu
    save_archive(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = dict(torch.jit.load(path).state_dict())
    found, _ = read_weights(path)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("trap", [WritesAFile, LoopsForEver, ReadsAFile])
def test_code_of_an_archive_is_not_run(trap: type[Bare], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("private").write_bytes(b"secret")
    save_script(trap(), Path("evil.pt"))
    with pytest.raises(ValueError, match="Not a CLIP"):
        load_model(path="evil.pt")
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x03t", b"K\x7ft"),  # 127 columns
        (b"K\x0ct", b"K\x0dt"),  # 13 numbers in the storage
        (b"(K\x04K\x03t", b"(K\x00J\xff\xff\xff\xfft"),  # a negative size
        (b"HalfStorage", b"OddStorages"),
        (b"_rebuild_tensor_v2", b"_rebuild_parameter"),
    ],
)
def test_tensors_of_an_archive_must_fit_their_storage(old: bytes, new: bytes, tmp_path: Path) -> None:
    path = tmp_path / "archive.pt"
    save_script(Bare(), path)
    rewrite(path, lambda name, content: content.replace(old, new))
    with pytest.raises(ValueError, match=r"archive\.pt (is not a readable weights file|holds more)|Not a CLIP"):
        build_model(read_weights(path)[0])


def test_modules_that_share_modules_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty modules that hold the next one twice would have 2^50 names."""
    shared = type("Shared", (), {"__module__": "__torch__"})
    monkeypatch.setitem(sys.modules, "__torch__", SimpleNamespace(Shared=shared))
    tree = shared()
    for _ in range(50):
        inner, tree = tree, shared()
        tree.first = tree.second = inner
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(tree, 2))
        archive.writestr("archive/code/__torch__.py", "")
    with pytest.raises(ValueError, match=r"archive\.pt .*one module has two names: second\."):
        read_weights(tmp_path / "archive.pt")


def test_archives_that_unpack_to_far_more_are_refused_unread(tmp_path: Path, weights: Weights) -> None:
    for name in ("archive.pt", "plain.pth"):
        path = tmp_path / name
        SAVERS[name](path, weights)
        rewrite(path, lambda entry, data: bytes(80 << 20) if entry.endswith("/data/0") else data, zipfile.ZIP_DEFLATED)
        with pytest.raises(ValueError, match=rf"{name} is not a readable .* would unpack from [\d,]+ to [\d,]+ bytes"):
            read_weights(path)


def test_tensors_without_numbers_in_the_file_are_refused(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "plain.pth"
    torch.save({**weights, "token_embedding.weight": torch.zeros(1).expand(10**9, 10**6)}, path)
    with pytest.raises(ValueError, match=r"1 tensors whose numbers are not all in the file: token_embedding\.weight"):
        read_weights(path)


@pytest.mark.parametrize("content", [torch.zeros(2), [1, 2], {"state_dict": {"a": 1}}, {"epoch": 3}])
def test_files_without_a_state_dict_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt holds no state dict"):
        read_weights(tmp_path / "other.pt")


def test_weights_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Not a CLIP.*no ln_final.weight, positional_embedding, text_projection, vis"):
        build_model({"fc.weight": torch.zeros(2, 2)})


def test_weights_that_do_not_fit_are_named(weights: Weights) -> None:
    del weights["visual.ln_post.bias"]
    weights["visual.extra"] = torch.zeros(1)
    weights["transformer.resblocks.1.ln_1.weight"] = torch.zeros(7)
    with pytest.raises(ValueError) as error:
        build_model(weights)
    for part in (
        "1 missing: visual.ln_post.bias",
        "1 surplus: visual.extra",
        "1 of another shape: transformer.resblocks.1.ln_1.weight",
    ):
        assert part in str(error.value)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """URL and folder of a local HTTP server."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", folder
        http.shutdown()
        thread.join()


def publish(monkeypatch: pytest.MonkeyPatch, url: str, content: bytes, checksum: str | None = None) -> str:
    """Let open_clip's list name this URL for ViT-B/16; the parent folder is the published SHA-256, as OpenAI's is."""
    checksum = checksum or hashlib.sha256(content).hexdigest()
    path = f"openaipublic/{checksum}/ViT-B-16.pt"
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["ViT-B-16"], "openai", {"url": f"{url}/{path}"})
    return path


def serve(folder: Path, path: str, content: bytes) -> None:
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_bytes(content)


# open_clip reads the file for its checksum without closing it.
leaves_file_open = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@leaves_file_open
def test_download_is_checked_and_kept(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: CLIP
) -> None:
    url, folder = server
    save_archive(tmp_path / "archive.pt")
    content = (tmp_path / "archive.pt").read_bytes()
    path = publish(monkeypatch, url, content)
    serve(folder, path, content)
    model, _ = clip.load("ViT-B/16", device="cpu", download_root=str(tmp_path / "cache"))
    tokens = clip.tokenize(TEXTS)
    assert torch.equal(model.encode_text(tokens), reference.encode_text(tokens))
    (folder / path).unlink()
    assert download("ViT-B-16:openai", str(tmp_path / "cache")) == str(tmp_path / "cache" / "ViT-B-16.pt")


@leaves_file_open
def test_download_with_a_wrong_checksum_is_refused(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    serve(folder, publish(monkeypatch, url, b"", checksum="0" * 64), b"not what was published")
    with pytest.raises(ConnectionError, match=r"Could not download ViT-B/16 from http.*(?i:sha256)"):
        load_model("ViT-B/16", download_root=str(tmp_path / "cache"))


def test_download_that_fails_says_what_to_do(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = server
    publish(monkeypatch, url, b"")
    with pytest.raises(ConnectionError, match=r"404.*set MODEL\.BACKBONE\.PATH.*tiny, which needs no download"):
        load_model("ViT-B/16", download_root=str(tmp_path))
    publish(monkeypatch, "http://127.0.0.1:9", b"")  # nobody listens there
    with pytest.raises(ConnectionError, match=r"Could not download ViT-B/16 from http://127\.0\.0\.1:9"):
        load_model("ViT-B/16", download_root=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ViT-B16", "ViT-B/16"),
        ("Tiny", "tiny"),
        ("ViT-B-16:laion2b", "ViT-B-16:laion2b_s34b_b88k"),
        ("ViT-B-16", "ViT-B-16:openai"),
        ("weights.pt", "MODEL.BACKBONE.PATH"),
    ],
)
def test_unknown_names_offer_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"Unknown backbone '{name}'. Nearest: ") as error:
        load_model(name)
    assert near in str(error.value)
