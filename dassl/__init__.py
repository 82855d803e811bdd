"""The engine: configuration, data, optimisation, training loop and evaluation, with Dassl's public interface.

It covers labelled prompt learning. It knows neither CLIP nor any method: those live in packages that import this one.
"""

__version__ = "1.0.0"
__author__ = "the authors of this repository"
__homepage__ = ""
