"""CLIP's ResNet image encoder: three-convolution stem, pooling for strides, attention pool; for text-only methods.

Letters: B images, h w rows and columns of the last feature map, N = h w, D its channels, T rows (1 or 1 + N), A heads,
E joint width.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions; a stride is an average pool, in the branch and in the shortcut."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = nn.ReLU(inplace=True)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu3 = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inplanes != planes * self.expansion:
            # The names "-1", "0", "1" are those of OpenAI's state dict.
            shortcut = [
                ("-1", nn.AvgPool2d(stride)),
                ("0", nn.Conv2d(inplanes, planes * self.expansion, 1, bias=False)),
                ("1", nn.BatchNorm2d(planes * self.expansion)),
            ]
            self.downsample = nn.Sequential(OrderedDict(shortcut))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        return self.relu3(out + identity)


class AttentionPool2d(nn.Module):
    """The mean row attends to itself and all positions."""

    def __init__(self, spacial_dim: int, embed_dim: int, heads: int, output_dim: int):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(spacial_dim**2 + 1, embed_dim) / embed_dim**0.5)
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.c_proj = nn.Linear(embed_dim, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, E)."""
        x = x.flatten(2).transpose(1, 2)  # (B, N, D)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positional_embedding.to(x.dtype)  # (B, 1 + N, D)
        query, key, value = map(self.split_heads, (self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)))
        pooled = F.scaled_dot_product_attention(query, key, value)  # (B, A, 1, D/A)
        return self.c_proj(pooled.transpose(1, 2).flatten(2))[:, 0]  # (B, 1, D) -> (B, E)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, A, T, D/A), for T rows."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, A, D/A) -> (B, A, T, D/A)


class ModifiedResNet(nn.Module):
    """layers: blocks per stage, e.g. (3, 4, 6, 3) for RN50; width 64 for RN50 and RN101."""

    def __init__(
        self, layers: tuple[int, ...], output_dim: int, heads: int, input_resolution: int = 224, width: int = 64
    ):
        super().__init__()
        self.input_resolution, self.output_dim = input_resolution, output_dim
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu3 = nn.ReLU(inplace=True)
        self.avgpool = nn.AvgPool2d(2)
        self.inplanes = width
        self.layer1 = self.stage(width, layers[0])
        self.layer2 = self.stage(width * 2, layers[1], stride=2)
        self.layer3 = self.stage(width * 4, layers[2], stride=2)
        self.layer4 = self.stage(width * 8, layers[3], stride=2)
        self.attnpool = AttentionPool2d(input_resolution // 32, width * 32, heads, output_dim)

    def stage(self, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
        first = Bottleneck(self.inplanes, planes, stride)
        self.inplanes = planes * Bottleneck.expansion
        return nn.Sequential(first, *(Bottleneck(self.inplanes, planes) for _ in range(blocks - 1)))

    def initialize_parameters(self) -> None:
        """As in CLIP: attention pool by its width, the last norm of each block at zero."""
        std = self.attnpool.c_proj.in_features**-0.5
        for projection in (self.attnpool.q_proj, self.attnpool.k_proj, self.attnpool.v_proj, self.attnpool.c_proj):
            nn.init.normal_(projection.weight, std=std)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, E), raw."""
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.avgpool(self.relu3(self.bn3(self.conv3(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (B, D, h, w)
        return self.attnpool(x)
