"""Our CLIP is CLIP: open_clip's features from the same weights, OpenAI's names and sizes."""

from __future__ import annotations

import open_clip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

import clip
from clip.model import CLIP, LayerNorm, QuickGELU
from clip.prompts import PromptPlan
from clip.weights import build_model, set_precision

from .small import LAYERS, SIZE, TEXT_WIDTH, VISION_WIDTH, difference, prompt_rows, randomise, small_clip

TEXTS = ["a photo of a cat.", "sea", "a centered satellite photo of annual crop land."]
VIT = {"layers": LAYERS, "width": VISION_WIDTH, "patch_size": 8, "image_size": SIZE}
TEXT = {"width": TEXT_WIDTH, "heads": 2, "layers": LAYERS}
RESNET = {"layers": [1, 2, 1, 1], "width": 32, "image_size": 64}
RESNET_SIZES = {
    "vision_layers": (1, 2, 1, 1),
    "vision_width": 32,
    "image_resolution": 64,
    "vision_patch_size": None,
}


def images(count: int = 2, size: int = SIZE) -> Tensor:
    return torch.randn(count, 3, size, size)


@pytest.mark.parametrize(
    ("vision", "text", "quick", "options"),
    [
        pytest.param(VIT, TEXT, True, {}, id="quick_gelu"),
        pytest.param(VIT, TEXT, False, {"activation": "gelu"}, id="gelu"),
        pytest.param(VIT | {"head_width": 48}, TEXT, True, {"vision_heads": 4}, id="narrow vision heads"),
        pytest.param(VIT, TEXT | {"heads": 4}, True, {"transformer_heads": 4}, id="narrow text heads"),
        pytest.param(RESNET, TEXT, True, {}, id="resnet"),
    ],
)
def test_features_equal_open_clip(vision: dict, text: dict, quick: bool, options: dict) -> None:
    theirs = open_clip.CLIP(64, CLIPVisionCfg(**vision), CLIPTextCfg(**text), quick_gelu=quick).eval()
    randomise(theirs)
    ours = build_model(theirs.state_dict(), **options)
    image, tokens = images(size=vision["image_size"]), clip.tokenize(TEXTS)
    with torch.no_grad():
        assert difference(ours.encode_image(image), theirs.encode_image(image)) < 1e-5
        assert difference(ours.encode_text(tokens), theirs.encode_text(tokens)) < 1e-5
        expected = theirs.get_logits(image, tokens)
        for found, wanted in zip(ours(image, tokens), expected):
            assert difference(found, wanted) < 1e-5


BLOCK = [
    f"{module}.{kind}"
    for module in ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
    for kind in ("weight", "bias")
] + ["attn.in_proj_weight", "attn.in_proj_bias"]
TEXT_KEYS = "logit_scale positional_embedding text_projection token_embedding.weight ln_final.bias ln_final.weight"
VIT_KEYS = """
    visual.class_embedding visual.conv1.weight visual.ln_post.bias visual.ln_post.weight visual.ln_pre.bias
    visual.ln_pre.weight visual.positional_embedding visual.proj
"""


def meta(**sizes: object) -> CLIP:
    """A model without memory, for names and shapes of the large ones."""
    with torch.device("meta"):
        return CLIP(context_length=77, vocab_size=49408, transformer_layers=12, **sizes)


def vit_b16() -> CLIP:
    return meta(
        embed_dim=512,
        image_resolution=224,
        vision_layers=12,
        vision_width=768,
        vision_patch_size=16,
        transformer_width=512,
        transformer_heads=8,
    )


def test_vit_has_openai_names_and_shapes() -> None:
    weights = vit_b16().state_dict()
    blocks = [f"{tower}transformer.resblocks.{i}.{k}" for tower in ("", "visual.") for i in range(12) for k in BLOCK]
    assert set(weights) == {*TEXT_KEYS.split(), *VIT_KEYS.split(), *blocks}
    recorded = {
        "positional_embedding": (77, 512),
        "text_projection": (512, 512),
        "token_embedding.weight": (49408, 512),
        "transformer.resblocks.11.attn.in_proj_weight": (1536, 512),
        "transformer.resblocks.11.mlp.c_proj.weight": (512, 2048),
        "visual.class_embedding": (768,),
        "visual.conv1.weight": (768, 3, 16, 16),
        "visual.positional_embedding": (197, 768),
        "visual.proj": (768, 512),
        "visual.transformer.resblocks.0.attn.in_proj_bias": (2304,),
        "visual.transformer.resblocks.0.mlp.c_fc.weight": (3072, 768),
        "logit_scale": (),
    }
    assert {key: tuple(weights[key].shape) for key in recorded} == recorded
    assert sum(t.numel() for t in weights.values()) == 149_620_737


def test_resnet_50_has_openai_names_and_size() -> None:
    model = meta(
        embed_dim=1024,
        image_resolution=224,
        vision_layers=(3, 4, 6, 3),
        vision_width=64,
        vision_patch_size=None,
        transformer_width=512,
        transformer_heads=8,
    )
    assert sum(p.numel() for p in model.parameters()) == 102_007_137
    keys = model.state_dict().keys()
    assert {
        "visual.conv3.weight",
        "visual.bn3.running_var",
        "visual.layer1.0.downsample.0.weight",
        "visual.layer1.0.downsample.1.running_mean",
        "visual.layer4.2.bn3.num_batches_tracked",
        "visual.attnpool.positional_embedding",
        "visual.attnpool.c_proj.bias",
    } <= keys
    assert "visual.layer1.1.downsample.0.weight" not in keys


def test_a_batch_equals_its_items_one_by_one(model: CLIP) -> None:
    image, tokens = images(3).double(), clip.tokenize(TEXTS)
    one_by_one = torch.cat([model.encode_image(one[None]) for one in image])
    assert difference(model.encode_image(image), one_by_one) < 1e-12
    one_by_one = torch.cat([model.encode_text(one[None]) for one in tokens])
    assert difference(model.encode_text(tokens), one_by_one) < 1e-12


def test_text_rows_see_only_what_came_before(model: CLIP) -> None:
    x = torch.randn(1, 9, TEXT_WIDTH, dtype=torch.float64)
    changed = x.clone()
    changed[:, 5] = torch.randn(TEXT_WIDTH)
    found, expected = model.transformer(changed), model.transformer(x)
    assert torch.equal(found[:, :5], expected[:, :5])
    assert ((found - expected)[:, 5:].abs().amax(dim=-1) > 1e-6).all()
    rows = torch.randn(1, 9, VISION_WIDTH, dtype=torch.float64)
    moved = torch.cat([rows[:, :5], rows[:, 5:].flip(-1)], dim=1)
    assert difference(model.visual.transformer(moved)[:, 0], model.visual.transformer(rows)[:, 0]) > 1e-6


def test_only_the_rows_asked_for_are_returned(model: CLIP) -> None:
    x = torch.randn(2, 9, VISION_WIDTH, dtype=torch.float64)
    tower = model.visual.transformer
    assert difference(tower(x, read=slice(2, 4)), tower(x)[:, 2:4]) < 1e-12


def test_quick_gelu_is_x_times_sigmoid() -> None:
    x = torch.linspace(-9, 9, 99, dtype=torch.float64)
    assert difference(QuickGELU()(x), x * torch.sigmoid(1.702 * x)) < 1e-15


def test_a_resnet_refuses_prompts() -> None:
    model = small_clip(**RESNET_SIZES)
    assert model.encode_image(images(size=64)).shape == (2, 64)
    with pytest.raises(ValueError, match="ResNet image encoder cannot take prompts; choose a ViT"):
        model.encode_image(images(size=64), PromptPlan(prompt_rows(2, VISION_WIDTH)))


def test_width_and_heads_must_fit() -> None:
    with pytest.raises(ValueError, match="Width 192 is not divisible by 5 heads"):
        small_clip(vision_heads=5)


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("sizes", [{}, RESNET_SIZES], ids=["vit", "resnet"])
def test_half_precision_is_for_matrices_only_as_in_openai_files(
    precision: str, dtype: torch.dtype, sizes: dict[str, object]
) -> None:
    model = set_precision(small_clip(**sizes), precision)
    halved = {name for name, p in model.named_parameters() if p.dtype == dtype}
    assert model.dtype == dtype
    assert {p.dtype for p in model.parameters()} == {dtype, torch.float32}
    for name, module in model.named_modules():
        own = {f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)}
        if isinstance(module, LayerNorm | torch.nn.BatchNorm2d | torch.nn.Embedding):
            assert not own & halved
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            assert own <= halved
    assert {"text_projection", "transformer.resblocks.0.attn.in_proj_bias"} <= halved
    assert not {"logit_scale", "positional_embedding", "visual.class_embedding"} & halved
    reference = small_clip(**sizes)
    image = images(size=model.visual.input_resolution)
    for found, expected in [
        (model.encode_image(image), reference.encode_image(image)),
        (model.encode_text(clip.tokenize(TEXTS)), reference.encode_text(clip.tokenize(TEXTS))),
    ]:
        assert found.dtype == dtype
        assert 0 < difference(found.float(), expected) < (0.05 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize("precision", ["fp32", "amp", "amp_bf16"])
def test_full_precision_undoes_half(precision: str) -> None:
    model = set_precision(set_precision(small_clip(), "fp16"), precision)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="one of fp32, fp16, bf16, amp, amp_bf16, but got 'fp8'"):
        set_precision(small_clip(), "fp8")


def test_layer_norm_computes_in_fp32_for_half_inputs() -> None:
    norm, x = LayerNorm(8), torch.randn(3, 8).add(200).to(torch.float16)
    found = norm(x)
    assert found.dtype == torch.float16
    assert torch.equal(found, torch.nn.functional.layer_norm(x.float(), (8,)).to(torch.float16))
