from typing import Any

from dassl.compat import left_out
from dassl.engine.build import TRAINER_REGISTRY, build_trainer
from dassl.engine.trainer import SimpleTrainer, TrainerBase, TrainerX

__all__ = ["TRAINER_REGISTRY", "SimpleTrainer", "TrainerBase", "TrainerX", "build_trainer"]


def __getattr__(name: str) -> Any:
    left_out(__name__, name)
