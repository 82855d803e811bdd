"""Left out on purpose: importing it says so."""

raise ImportError(
    "dassl.modeling (CNN backbones, heads and networks) is not part of this engine, which covers labelled prompt "
    "learning only: build the model in your trainer's build_model"
)
