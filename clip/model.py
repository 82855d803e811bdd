"""CLIP (Radford et al. 2021, arXiv:2103.00020): two encoders that take prompts as an argument.

OpenAI's parameter names; batch-first everywhere: B images or texts, T rows (tokens), D width, E joint width.
There is one block for all methods. Prompts reach it as a ``LayerPrompt``; see ``clip/prompts.py``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .prompts import LayerPrompt, PromptPlan, raw_first_layer, write_slots
from .resnet import ModifiedResNet
from .text import Texts, encode_rows

ALL_ROWS = slice(None)


class LayerNorm(nn.LayerNorm):
    """Computes in its weights' precision (fp32 also in a half-precision model, as in CLIP) whatever the input's."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.bias, self.eps).to(
            x.dtype
        )


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), written with SiLU: one fused kernel that keeps one tensor for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x) / 1.702


ACTIVATIONS = {"quick_gelu": QuickGELU, "gelu": nn.GELU}


class Attention(nn.Module):
    """Multi-head self-attention under ``nn.MultiheadAttention``'s parameter names, projections apart from attending."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"Width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def project(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., 3 D): query, key and value side by side."""
        return F.linear(x, self.in_proj_weight, self.in_proj_bias)

    def project_views(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As ``project``, each projection reading its own input."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        return torch.cat([F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases)], dim=-1)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, D/H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, qkv: Tensor, read: slice = ALL_ROWS, causal: bool = False) -> Tensor:
        """Rows ``read`` of (B, T, 3 D) attend to all rows; returns (B, len(read), D)."""
        query, key, value = (self.split_heads(x) for x in qkv.chunk(3, dim=-1))
        out = F.scaled_dot_product_attention(query[:, :, read], key, value, is_causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class ResidualAttentionBlock(nn.Module):
    """The transformer layer, for every method."""

    def __init__(self, width: int, heads: int, activation: str = "quick_gelu"):
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width), gelu=ACTIVATIONS[activation](), c_proj=nn.Linear(4 * width, width)
            )
        )
        self.ln_2 = LayerNorm(width)

    def project(self, x: Tensor, prompt: LayerPrompt | None = None, start: int = 0) -> Tensor:
        """Query, key and value of every row, (B, T, 3 D). Prompt rows are projected once and put in, not per image."""
        qkv = self.attn.project(self.ln_1(x))
        if prompt is None:
            return qkv
        views = prompt.map(lambda rows: self.ln_1(rows.to(x.dtype)))
        rows = (
            self.attn.project(views.query)
            if prompt.is_shared
            else self.attn.project_views(views.query, views.key, views.value)
        )
        return write_slots(qkv, start, rows)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Y = R + attended; Y + MLP(LN2(Y))."""
        x = x + attended
        return x + self.mlp(self.ln_2(x))

    def forward(
        self, x: Tensor, prompt: LayerPrompt | None = None, start: int = 0, read: slice = ALL_ROWS, causal: bool = False
    ) -> Tensor:
        """(B, T, D) -> (B, len(read), D): only the rows ``read`` are computed, since only they are wanted."""
        qkv = self.project(x, prompt, start)
        if prompt is not None and prompt.residual is not None:
            x = write_slots(x, start, prompt.residual)
        return self.finish(x[:, read], self.attn(qkv, read, causal))


class Transformer(nn.Module):
    """A stack of blocks; ``causal`` for text."""

    def __init__(self, width: int, layers: int, heads: int, causal: bool = False, activation: str = "quick_gelu"):
        super().__init__()
        self.width, self.layers, self.causal = width, layers, causal
        self.resblocks = nn.Sequential(*(ResidualAttentionBlock(width, heads, activation) for _ in range(layers)))

    def forward(
        self, x: Tensor, prompts: Mapping[int, LayerPrompt] | None = None, start: int = 0, read: slice = ALL_ROWS
    ) -> Tensor:
        """(B, T, D) -> (B, len(read), D). Layer l writes ``prompts[l]`` into its rows from ``start`` on.

        With prompts behind all other rows (vision), a layer whose successor replaces them does not compute them.
        """
        prompts = prompts or {}
        for layer, block in enumerate(self.resblocks):
            following = prompts.get(layer + 1)
            if layer == self.layers - 1:
                rows = read
            elif following is not None and following.residual is not None and not self.causal:
                rows = slice(start)
            else:
                rows = ALL_ROWS
            x = block(x, prompts.get(layer), start, rows, self.causal)
        return x


class VisionTransformer(nn.Module):
    """ViT: rows are [CLS], patches, prompts."""

    def __init__(
        self,
        input_resolution: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        output_dim: int,
        activation: str = "quick_gelu",
    ):
        super().__init__()
        self.input_resolution, self.output_dim = input_resolution, output_dim
        scale = width**-0.5
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn((input_resolution // patch_size) ** 2 + 1, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, activation=activation)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, output_dim))

    @property
    def width(self) -> int:
        return self.transformer.width

    def patches(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + patches, D): the rows that enter ``ln_pre``."""
        x = self.conv1(image.contiguous(memory_format=torch.channels_last))  # patches then are rows without a copy
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        return x + self.positional_embedding.to(x.dtype)

    def forward(self, image: Tensor, prompt: PromptPlan | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, E), raw (not normalised)."""
        x = self.ln_pre(self.patches(image))
        start, layers = x.shape[1], {}
        if prompt is not None:
            prompt.check(self.width, self.transformer.layers)
            x = write_slots(x, start, self.ln_pre(prompt.input.to(x.dtype)))
            layers = raw_first_layer(prompt.layers, lambda rows: self.ln_pre(rows.to(x.dtype)))
        cls = self.transformer(x, layers, start, read=slice(1))[:, 0]
        return self.ln_post(cls) @ self.proj


class CLIP(nn.Module):
    """Both encoders. ``vision_layers`` is a number (ViT) or four numbers (ResNet)."""

    def __init__(  # noqa: PLR0913 - OpenAI's constructor, which people call by position
        self,
        embed_dim: int,
        image_resolution: int,
        vision_layers: int | tuple[int, int, int, int],
        vision_width: int,
        vision_patch_size: int | None,
        context_length: int,
        vocab_size: int,
        transformer_width: int,
        transformer_heads: int,
        transformer_layers: int,
        activation: str = "quick_gelu",
        vision_heads: int | None = None,
    ):
        super().__init__()
        self.context_length, self.vocab_size = context_length, vocab_size
        if isinstance(vision_layers, int):
            heads = vision_heads or vision_width // 64
            self.visual = VisionTransformer(
                image_resolution, vision_patch_size, vision_width, vision_layers, heads, embed_dim, activation
            )
        else:
            heads = vision_heads or vision_width * 32 // 64
            self.visual = ModifiedResNet(vision_layers, embed_dim, heads, image_resolution, vision_width)
        self.transformer = Transformer(
            transformer_width, transformer_layers, transformer_heads, causal=True, activation=activation
        )
        self.token_embedding = nn.Embedding(vocab_size, transformer_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, transformer_width))
        self.ln_final = LayerNorm(transformer_width)
        self.text_projection = nn.Parameter(torch.empty(transformer_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        # (vocab_size,) bool, or None for the whole vocabulary: a small model may know only some words.
        self.known_tokens: Tensor | None = None
        self.source = ("", "")  # name and path that it was loaded by
        self.initialize_parameters()

    def initialize_parameters(self) -> None:
        """Standard deviations of the CLIP paper's code: by width, residual branches also by depth."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=self.transformer.width**-0.5)
        towers = [self.transformer] + ([self.visual.transformer] if self.has_vit else [])
        for tower in towers:
            branch = tower.width**-0.5 * (2 * tower.layers) ** -0.5
            for block in tower.resblocks:
                nn.init.normal_(block.attn.in_proj_weight, std=tower.width**-0.5)
                nn.init.normal_(block.attn.out_proj.weight, std=branch)
                nn.init.normal_(block.mlp.c_fc.weight, std=(2 * tower.width) ** -0.5)
                nn.init.normal_(block.mlp.c_proj.weight, std=branch)
        if not self.has_vit:
            self.visual.initialize_parameters()

    @property
    def has_vit(self) -> bool:
        return isinstance(self.visual, VisionTransformer)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and the activations between layers."""
        return self.visual.conv1.weight.dtype

    @property
    def embed_dim(self) -> int:
        return self.text_projection.shape[1]

    def encode_image(self, image: Tensor, prompt: PromptPlan | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, E), raw. A ResNet cannot take prompts (ValueError)."""
        image = image.to(self.dtype)
        if prompt is None:
            return self.visual(image)
        if not self.has_vit:
            raise ValueError("A ResNet image encoder cannot take prompts; choose a ViT backbone or a text-only method")
        return self.visual(image, prompt)

    def encode_text(
        self, text: Tensor | Texts, prompt: PromptPlan | None = None, memory_gb: float | None = None
    ) -> Tensor:
        """Token ids (C, 77) or ``Texts`` of C texts -> (C, E), raw; (B, C, E) if the context is one per image.

        memory_gb: budget for the activations; texts are encoded in chunks that are recomputed in the backward pass.
        Same numbers as the plain computation over 77 tokens, without its waste: see ``clip/text.py``.
        """
        if isinstance(text, Tensor):
            text = Texts.from_tokens(text)
        if prompt is not None:
            prompt.check(self.transformer.width, self.transformer.layers)
        features = encode_rows(self, text, prompt, memory_gb)
        return self.ln_final(features) @ self.text_projection

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Logits per image (B, C) and per text (C, B)."""
        image_features = F.normalize(self.encode_image(image), dim=-1)
        text_features = F.normalize(self.encode_text(text), dim=-1)
        logits = self.logit_scale.exp() * image_features @ text_features.t()
        return logits, logits.t()
