"""POMP: Prompt Pre-Training with Twenty-Thousand Classes (Ren et al., NeurIPS 2023, arXiv:2304.04704).

CoOp's context, learned from K sampled classes a step instead of all N.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from dassl.config import CfgNode
from dassl.engine import TRAINER_REGISTRY

from .base import classification_terms
from .coop import CoOp
from .losses import candidates, check_choice


@TRAINER_REGISTRY.register()
class POMP(CoOp):
    section = "POMP"
    labels_stay_on_host = True
    defaults: ClassVar = {
        "N_CTX": 4,
        "CSC": False,
        "CTX_INIT": "",
        "CLASS_TOKEN_POSITION": "end",
        "PREC": "fp16",
        "UPDATE_CLASS_NUM": 128,  # K, the image's own class and K - 1 sampled ones
        "EPT": True,  # sample classes; False is CoOp over all of them
        "LOCAL_CORRECTION": True,
        "CORRECTION_LOG": "log10",  # log10, as published, or ln, as the paper's softmax needs
        "NEG_SAMPLING_MODE": "random",
    }

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        check_choice(cfg.TRAINER[self.section], CORRECTION_LOG=("log10", "ln"), NEG_SAMPLING_MODE=("random",))

    def compute_loss(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        if not self.options.EPT:
            return super().compute_loss(image, label.to(image.device, non_blocking=True))
        chosen, texts = self.model.to_device(candidates(self.options, label, self.num_classes))
        logits = chosen.columns(self.model(image, chosen.classes, texts))
        return classification_terms(chosen.corrected(logits), chosen.target)
