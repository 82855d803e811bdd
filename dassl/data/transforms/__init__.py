from dassl.data.transforms.transforms import INTERPOLATION_MODES, Pipeline, build_transform

__all__ = ["INTERPOLATION_MODES", "Pipeline", "build_transform"]
