"""Prompt templates for zero-shot CLIP. A data set's own template stands in its reader; these are the general ones."""


def imagenet_templates() -> list[str]:
    """CLIP's 80 templates for ImageNet (Radford et al., 2021)."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES  # takes seconds to import

    return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]


def imagenet_templates_select() -> list[str]:
    """The 7 of them that CLIP's authors found to do almost as well."""
    from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES

    return [template("{}") for template in SIMPLE_IMAGENET_TEMPLATES]


def ensemble(template: str) -> list[str]:
    """The 7 general templates and a data set's own, as the family's ``ZeroshotCLIP2`` averages them."""
    general = imagenet_templates_select()
    return general if template in general else [*general, template]
