"""VPT: Visual Prompt Tuning (Jia et al., ECCV 2022, arXiv:2203.12119) for CLIP, shallow (depth 1) or deep.

It is IVLP without text prompts: the text side is ``a photo of a <name>.``, encoded once.
"""

from __future__ import annotations

from typing import ClassVar

from dassl.engine import TRAINER_REGISTRY

from .ivlp import IVLP


@TRAINER_REGISTRY.register()
class VPT(IVLP):
    section = "VPT"
    registered_name = "prompt_learner"  # as in the published files
    defaults: ClassVar = {"N_CTX_VISION": 2, "PROMPT_DEPTH_VISION": 1, "CTX_INIT": "a photo of a", "PREC": "fp16"}
    text_depth = 0
    phrase = "a photo of a"  # the published code never reads CTX_INIT
