"""A frozen zero-shot CLIP as the source of soft labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.model import CLIP
from dassl.config import CfgNode

from .base import PromptTrainer, load_clip
from .prompted_clip import cosine_logits, unit, zeroshot_features


class Teacher:
    """Zero-shot logits of the student's own views; class features (C, E) are computed once."""

    def __init__(self, clip: CLIP, text_features: Tensor):
        self.clip, self.text_features = clip, text_features

    @torch.no_grad()
    def logits(self, image: Tensor, classes: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, C), or (B, U) for the class indices ``classes``; with the teacher's own logit scale.

        Images are resized to the teacher's resolution (bicubic).
        """
        size = self.clip.visual.input_resolution
        if image.shape[-1] != size:
            image = F.interpolate(image, size=(size, size), mode="bicubic", antialias=True)
        text = self.text_features
        if classes is not None:
            text = text[classes]
        return cosine_logits(self.clip, unit(self.clip.encode_image(image)), text)


def build_teacher(trainer: PromptTrainer, options: CfgNode) -> Teacher:
    """``options``: BACKBONE and PATH (empty: the student's CLIP, not loaded twice), TEMPLATES (a template with ``{}``,
    ``dataset`` for the data set's own, ``ensemble`` for CLIP's seven and the data set's own)."""
    cfg, dataset = trainer.cfg, trainer.dm.dataset
    own = cfg.MODEL.BACKBONE
    if (options.BACKBONE, options.PATH) in (("", ""), (own.NAME, own.PATH)):
        clip = trainer.model.clip
    else:
        clip = load_clip(options.BACKBONE, options.PATH, trainer.options.PREC).to(trainer.device)
    if options.TEMPLATES == "ensemble":
        templates = dataset.templates or [dataset.template]
    elif options.TEMPLATES == "dataset":
        templates = [dataset.template]
    elif "{}" in options.TEMPLATES:
        templates = [options.TEMPLATES]
    else:
        raise ValueError(f"TEACHER.TEMPLATES must be dataset, ensemble or a text with {{}}, got {options.TEMPLATES!r}")
    return Teacher(clip, zeroshot_features(clip, trainer.classnames, templates, cfg.MODEL.TEXT_MEMORY_GB))
