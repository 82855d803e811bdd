"""The embedded world: data sets that need no download (see ``docs/embedded.md``)."""

from .sets import (
    TinyCounts,
    TinyDigits,
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
TARGETS = (TinyShapes, TinyTextures, TinyCounts, TinyScenes, TinyDigits)
SHIFTED = (TinySourceNoise, TinySourceSketch, TinySourceTint, TinySourceWarp)
EMBEDDED = (SOURCE, *TARGETS, *SHIFTED)
