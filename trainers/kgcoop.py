"""KgCoOp: Knowledge-guided Context Optimization (Yao et al., CVPR 2023, arXiv:2303.13283).

CoOp whose class features stay near those of hand-written texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .coop import CoOp
from .losses import cosine_distance
from .method import Batch, PromptedCLIP, classification_terms, option
from .teacher import check_templates, named_templates

UNUSED = ("bias_vectors", "meta_net.linear1.weight", "meta_net.linear1.bias")  # in the authors' files


class KgCoOp(CoOp):
    @dataclass(frozen=True)
    class Options(CoOp.Options):
        N_CTX: int = option(4, least=1)
        CTX_INIT: str = "a photo of a"
        W: float = option(8.0, least=0)  # weight of the hand-written knowledge
        TEMPLATES: str = "dataset"  # of the hand-written texts: as TEACHER.TEMPLATES of RPP

        def check(self, where: str) -> None:
            check_templates(self.TEMPLATES, where)

    def loss(self, classifier: PromptedCLIP, batch: Batch) -> dict[str, Tensor]:
        """CE + W (1 - mean_c <t_c, t0_c>), as the released code has it; half of W |t - t0|^2, eq. 5 and 6."""
        image, text = classifier.features(batch.image)
        frozen = classifier.zeroshot(named_templates(classifier, self.options.TEMPLATES))
        terms = classification_terms(classifier.cosine_logits(image, text), batch.label)
        return terms | {"kg_loss": self.options.W * cosine_distance(text, frozen)}

    def adopt(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The authors' files hold a net and a bias that their code never reads."""
        return {key: value for key, value in state.items() if key not in UNUSED}
