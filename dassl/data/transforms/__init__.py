from dassl.data.transforms.transforms import AT_TEST, INTERPOLATION_MODES, Pipeline, build_transform

__all__ = ["AT_TEST", "INTERPOLATION_MODES", "Pipeline", "build_transform"]
