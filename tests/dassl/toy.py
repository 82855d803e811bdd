"""A data set of coloured squares and a linear classifier: the smallest thing the engine can train."""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from yacs.config import CfgNode

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer

CLASSNAMES = ["red", "green", "blue_sky"]


class Square(Datum):
    """A square of one colour; its shade is the number at the end of the path."""

    def load(self) -> Image.Image:
        shade = 60 + 8 * int(self.impath.rsplit("/", 1)[1]) % 190
        return Image.new("RGB", (12, 8), tuple(shade if channel == self.label else 30 for channel in range(3)))


def squares(split: str, count: int) -> list[Datum]:
    return [Square(f"{split}/{n}/{i}", n, 0, name) for n, name in enumerate(CLASSNAMES) for i in range(count)]


@DATASET_REGISTRY.register()
class Squares(DatasetBase):
    def __init__(self, cfg: CfgNode) -> None:
        train = self.generate_fewshot_dataset(squares("train", 9), num_shots=cfg.DATASET.NUM_SHOTS)
        super().__init__(train_x=train, val=squares("val", 2), test=squares("test", 4))


@DATASET_REGISTRY.register()
class SquaresWithoutVal(DatasetBase):
    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(train_x=squares("train", 2), test=squares("test", 2))


@TRAINER_REGISTRY.register()
class Linear(TrainerX):
    """Average colour -> class scores, with dropout so that the global generators matter."""

    def build_model(self) -> None:
        self.model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(3, 3))
        optim = build_optimizer(self.model, self.cfg.OPTIM)
        sched = build_lr_scheduler(optim, self.cfg.OPTIM)
        self.register_model("linear", self.model, optim, sched)

    def forward_backward(self, batch: dict) -> dict[str, torch.Tensor]:
        images, labels, _ = self.parse_batch_train(batch)
        loss = F.cross_entropy(self.model(images), labels)
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss}


def toy_cfg(output_dir: object, *opts: object) -> CfgNode:
    """The default configuration of the toy run, with ``opts`` on top."""
    cfg = get_cfg_default()
    settings = {
        "OUTPUT_DIR": str(output_dir),
        "SEED": 1,
        "USE_CUDA": False,
        "INPUT.SIZE": (8, 8),
        "INPUT.TRANSFORMS": ("random_resized_crop", "random_flip", "normalize"),
        "DATASET.NAME": "Squares",
        "DATALOADER.NUM_WORKERS": 0,
        "DATALOADER.TRAIN_X.BATCH_SIZE": 8,
        "DATALOADER.TEST.BATCH_SIZE": 5,
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": 0.1,
        "OPTIM.LR_SCHEDULER": "cosine",
        "OPTIM.WARMUP_EPOCH": 1,
        "OPTIM.WARMUP_TYPE": "constant",
        "OPTIM.MAX_EPOCH": 4,
        "TRAINER.NAME": "Linear",
    }
    cfg.merge_from_list([word for pair in settings.items() for word in pair])
    cfg.merge_from_list(list(opts))
    cfg.freeze()
    return cfg
