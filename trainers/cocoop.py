"""CoCoOp: Conditional Prompt Learning for Vision-Language Models (Zhou et al., CVPR 2022, arXiv:2203.05557).

Letters: B images, P context tokens, D width of the text encoder, E joint width.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from clip import CLIP, PerImage, PromptPlan

from .method import Context, Method, PromptedCLIP, Prompts, Subset, option


class CoCoOp(Method):
    """v_m(x) = v_m + pi, pi = h_theta(x) (section 3.2): a meta-network shifts the context by the image's feature."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        N_CTX: int = option(16, least=1)
        CTX_INIT: str = ""  # words to start from; they decide the number of tokens

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        self.context = Context.of_phrase(self.options.CTX_INIT, self.options.N_CTX)
        self.ctx = nn.Parameter(self.context.start(clip))
        hidden = clip.embed_dim // 16
        self.meta_net = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(clip.embed_dim, hidden),
                relu=nn.ReLU(inplace=True),
                linear2=nn.Linear(hidden, clip.transformer.width),
            )
        )

    def prompts(self, image_features: Tensor) -> Prompts:
        """Features (B, E) -> contexts (B, P, D): one per image, the same for all classes."""
        shift = self.meta_net(image_features)  # (B, D)
        return Prompts(text=PromptPlan(PerImage(self.ctx + shift[:, None])))  # (P, D) + (B, 1, D) -> (B, P, D)

    def features(
        self, classifier: PromptedCLIP, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor, Tensor]:
        if image is None:
            raise ValueError(f"{type(self).__name__}'s text features depend on the image")
        image_features = classifier.encode_image(image)
        return image_features, classifier.encode_text(self.prompts(image_features).text, classes)
