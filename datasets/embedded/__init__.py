"""The embedded world: data sets that need no download (see ``docs/embedded.md``)."""

from .sets import (
    TinyCounts,
    TinyDevGroups,
    TinyDevSurfaces,
    TinyDigits,
    TinyPhotos,
    TinyPrint,
    TinyScenes,
    TinyShapes,
    TinySource,
    TinySourceNoise,
    TinySourceSketch,
    TinySourceTint,
    TinySourceWarp,
    TinyTextures,
)

SOURCE = TinySource
TARGETS = (TinyShapes, TinyTextures, TinyPrint, TinyCounts, TinyScenes)  # drawn as the source is
CONTROLS = (TinyCounts, TinyScenes)  # targets that turn on what the source's single things do not show
REAL = (TinyDigits,)
FORGOTTEN = (TinyPhotos,)  # the tiny CLIP was trained on such pictures
SHIFTED = (TinySourceNoise, TinySourceSketch, TinySourceTint, TinySourceWarp)
DEVELOPMENT = (TinyDevSurfaces, TinyDevGroups)  # for choosing settings; they stand in no table
EMBEDDED = (SOURCE, *TARGETS, *REAL, *FORGOTTEN, *SHIFTED, *DEVELOPMENT)
