"""CLIP (Radford et al. 2021, arXiv:2103.00020): two encoders that take prompts as an argument.

OpenAI's parameter names; batch-first everywhere. Both encoders are made of ``clip/blocks.py``; the passes over texts
are in ``clip/text_encoder.py``.

Letters: B images, C texts, h w rows and columns of patches, N = h w, P prompt tokens, D width of the image
encoder, E joint width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import LayerNorm, QuickGELU, ResidualAttentionBlock, Transformer
from .prompts import PerClass, PromptPlan, raw_first_layer, write_slots
from .resnet import ModifiedResNet
from .text import Texts, check_vocabulary
from .text_encoder import TextEncoder

__all__ = ["CLIP", "LayerNorm", "QuickGELU", "ResidualAttentionBlock", "Transformer", "VisionTransformer"]


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
        """(B, 3, H, W) -> (B, 1 + N, D): the rows that enter ``ln_pre``."""
        x = self.conv1(image.contiguous(memory_format=torch.channels_last))  # patches then are rows without a copy
        x = x.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, N, D)
        cls = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)  # (B, 1, D)
        x = torch.cat([cls, x], dim=1)  # (B, 1 + N, D)
        return x + self.positional_embedding.to(x.dtype)

    def forward(self, image: Tensor, prompt: PromptPlan | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, E), raw (not normalised)."""
        return self.last_rows(image, prompt)[:, 0] @ self.proj  # (B, E)

    def last_rows(self, image: Tensor, prompt: PromptPlan | None = None, prompts_too: bool = False) -> Tensor:
        """(B, 3, H, W) -> (B, 1, D): [CLS] behind ``ln_post``; the last layer's prompts too: (B, 1 + P, D)."""
        x = self.ln_pre(self.patches(image))
        start, layers, changes = x.shape[1], {}, {}
        if prompt is not None:
            prompt.check(self.width, self.transformer.layers)
            changes = prompt.changes
            if prompt.length:
                x = write_slots(x, start, self.ln_pre(prompt.input.rows.to(x.dtype)))  # (B, 1 + N + P, D)
            layers = raw_first_layer(prompt, lambda rows: self.ln_pre(rows.to(x.dtype)))
        read = slice(1)
        if prompts_too:
            behind = torch.arange(start, start + prompt.deep_length, device=x.device)
            read = torch.cat([behind.new_zeros(1), behind])  # (1 + P,)
        return self.ln_post(self.transformer(x, layers, start, read, changes))  # (B, 1, D) or (B, 1 + P, D)


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
    def text_encoder(self) -> TextEncoder:
        return TextEncoder(self.token_embedding, self.positional_embedding, self.transformer, self.dtype)

    @property
    def embed_dim(self) -> int:
        return self.text_projection.shape[1]

    def encode_image(self, image: Tensor, prompt: PromptPlan | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, E), raw. A ResNet cannot take prompts (ValueError)."""
        image = image.to(self.dtype)
        if prompt is None:
            return self.visual(image)
        self.check_image_prompt(prompt)
        return self.visual(image, prompt)

    def encode_image_and_prompt(self, image: Tensor, prompt: PromptPlan) -> tuple[Tensor, Tensor]:
        """(B, E) as ``encode_image``, and what has become of the prompt rows: (B, P, D), normed by ``ln_post``."""
        self.check_image_prompt(prompt)
        rows = self.visual.last_rows(image.to(self.dtype), prompt, prompts_too=True)  # (B, 1 + P, D)
        return rows[:, 0] @ self.visual.proj, rows[:, 1:]  # (B, E) and (B, P, D)

    def check_image_prompt(self, prompt: PromptPlan) -> None:
        if not self.has_vit:
            raise ValueError("A ResNet image encoder cannot take prompts; choose a ViT backbone or a text-only method")
        if isinstance(prompt.input, PerClass):
            raise ValueError("Images have no class yet: they take one prompt for all of them, or PerImage(prompts)")

    def encode_text(
        self, text: Tensor | Texts, prompt: PromptPlan | None = None, memory_gb: float | None = None
    ) -> Tensor:
        """Token ids (C, 77) or ``Texts`` of C texts -> (C, E), raw; (B, C, E) if the context is one per image.

        memory_gb: budget for the activations; texts are encoded in chunks that are recomputed in the backward pass.
        Same numbers as the plain computation over 77 tokens, without its waste: see ``clip/text_encoder.py``.
        """
        texts = Texts.from_tokens(text) if isinstance(text, Tensor) else text
        check_vocabulary(self.known_tokens, texts)
        rows = self.text_encoder.eos_rows(texts, prompt, memory_gb)
        return self.ln_final(rows) @ self.text_projection

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Logits per image (B, C) and per text (C, B)."""
        image_features = F.normalize(self.encode_image(image), dim=-1)
        text_features = F.normalize(self.encode_text(text), dim=-1)
        logits = self.logit_scale.exp() * image_features @ text_features.t()  # (B, C)
        return logits, logits.t()  # (B, C) and (C, B)
