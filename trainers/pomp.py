"""POMP: Prompt Pre-Training with Twenty-Thousand Classes (Ren et al., NeurIPS 2023, arXiv:2304.04704).

CoOp's context, learned from K sampled classes a step instead of all N.
"""

from __future__ import annotations

from dataclasses import dataclass

from .coop import CoOp
from .method import Needs, option
from .sampling import CORRECTION_LOGS, Sampling


class POMP(CoOp):
    @dataclass(frozen=True)
    class Options(CoOp.Options):
        N_CTX: int = option(4, least=1)
        UPDATE_CLASS_NUM: int = option(128, least=0)  # K, the image's own class and K - 1 sampled ones; 0: all
        EPT: bool = True  # sample classes; False is CoOp over all of them
        LOCAL_CORRECTION: bool = True
        CORRECTION_LOG: str = option("log10", choices=CORRECTION_LOGS)  # as published; ln is what a softmax needs
        NEG_SAMPLING_MODE: str = option("random", choices=("random",))  # of published yaml files: the only one there is

    @classmethod
    def needs(cls, options: Options) -> Needs:
        return Needs(sampling=Sampling.of(options) if options.EPT else None)
