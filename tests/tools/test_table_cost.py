"""The cost of a table: counts at other sizes than those it was fitted to, and sums against sums by hand."""

from __future__ import annotations

import pytest
import torch

from configs import methods
from dassl.config import CfgNode, solve_batch
from tools.command import parse_args, setup_cfg
from tools.jobs import Job
from tools.method_cost import FAMILY_CLASSES, Affine, Costs, FamilyCLIP, Learner, flops
from tools.protocols import Series, evaluation, training
from tools.stand_ins import Counts, use_weights
from tools.table_cost import Run
from trainers.prompted_clip import PromptedCLIP

COUNTS = Counts(classes=10, images=70, test_images=250)
STORE = ("DATALOADER.FEATURE_STORE", "output/features", "TEST.FINAL_MODEL", "last_step")
# once 1 C; step 1000 + 10 B + 2 C; texts 3 C; test 5 B + 7 C; of features without the images' part
COSTS = Costs(
    once=Affine(text=1),
    step=Affine(1000, 10, 2),
    step_of_features=Affine(1000, 0, 2),
    texts=Affine(text=3),
    test=Affine(0, 5, 7),
    test_of_features=Affine(0, 0, 7),
    encode=5,
    passes=0,
)


def config(job: Job) -> CfgNode:
    cfg = solve_batch(setup_cfg(parse_args(job.argv)), 1).clone()
    cfg.defrost()
    use_weights(cfg, True)
    return cfg


def run(method: str, *opts: str, trains: bool = True, seed: int = 1) -> Run:
    series = Series(method, seed, "tiny", opts=(*STORE, *opts))
    job = training(series, "tiny_shapes") if trains else evaluation(series, "tiny_shapes")
    cfg = config(job)
    return Run(job, cfg, Learner.of(cfg), COUNTS)


@pytest.mark.parametrize("method", ["CoOp", "CoCoOp", "MaPLe", "ZeroshotCLIP"])
@pytest.mark.parametrize("kind", [PromptedCLIP, FamilyCLIP])
def test_counts_at_another_size(method: str, kind: type[PromptedCLIP]) -> None:
    learner = run(method, trains=method != "ZeroshotCLIP").learner
    near = 0.001 if kind is FamilyCLIP else 0.1  # names differ in their lengths
    found = learner.costs(kind, *([FAMILY_CLASSES] if kind is FamilyCLIP else []))
    model = learner.classifier(60, kind)
    picture = torch.randn(5, 3, *[model.clip.visual.input_resolution] * 2)
    if method != "ZeroshotCLIP":
        assert found.step(5, 60) == pytest.approx(flops(lambda: learner.step(model.train(), picture)), rel=near)
    model.eval()
    first, again = (flops(lambda: learner.test(model, picture)) for _ in range(2))
    assert found.test(5, 60) == pytest.approx(again, rel=near)
    assert found.texts(1, 60) == pytest.approx(first - again, rel=near)


@pytest.mark.parametrize("method", [row.name for row in methods().values()])
@pytest.mark.parametrize("kind", [PromptedCLIP, FamilyCLIP])
def test_every_method_can_be_counted(method: str, kind: type[PromptedCLIP]) -> None:
    """What it asks for at its beginning is there, and more classes or images never cost less."""
    learner = run(method, trains=method not in ("ZeroshotCLIP", "ZeroshotCLIP2")).learner
    found = learner.costs(kind, (2, 6))
    for cost in (found.step, found.test):
        assert 0 <= cost(4, 10) <= cost(8, 10) * 1.001 and cost(4, 10) <= cost(4, 20) * 1.001
    assert found.test(4, 10) > 0 and found.encode > 0


def test_a_text_only_method_by_hand() -> None:
    size = ("OPTIM.MAX_EPOCH", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "32", "DATALOADER.TEST.BATCH_SIZE", "100")
    views = ("DATALOADER.CACHE_FEATURES", "True", "DATALOADER.FEATURE_VIEWS", "3")
    kept: set[object] = set()
    first = run("CoOp", *size, *views)
    # 70 images: 2 whole batches of 32 in each of 2 epochs; three views of each image are encoded
    assert first.training(COSTS, kept) == 10 + 3 * 70 * 5 + 4 * (1000 + 2 * 10)
    assert first.training(COSTS, None, keeps_views=False) == 10 + 4 * (1000 + 32 * 10 + 2 * 10)
    # 250 test images in 3 batches
    assert first.evaluations(COSTS, kept) == 250 * 5 + 3 * 10 + 3 * 7 * 10
    assert first.evaluations(COSTS, None) == pytest.approx(250 * 5 + 3 * 10 + 3 * 7 * 10)
    # another seed: other views, the same test images
    second = run("CoOp", *size, *views, seed=2)
    assert second.training(COSTS, kept) == first.training(COSTS, None)
    assert second.evaluations(COSTS, kept) == 3 * 10 + 3 * 7 * 10


def test_a_deep_method_by_hand() -> None:
    opts = ("OPTIM.MAX_EPOCH", "3", "DATALOADER.TRAIN_X.BATCH_SIZE", "7", "DATALOADER.TEST.BATCH_SIZE", "50")
    kept: set[object] = set()
    for seed in (1, 2):  # nothing is shared
        deep = run("MaPLe", *opts, seed=seed)
        assert deep.training(COSTS, kept) == 10 + 30 * (1000 + 7 * 10 + 2 * 10)
        assert deep.evaluations(COSTS, kept) == 30 + 5 * (50 * 5 + 7 * 10)
    assert not kept


def test_zero_shot_finds_the_images_that_others_encoded() -> None:
    kept: set[object] = set()
    prepared = ("DATALOADER.TEST.BATCH_SIZE", "250")
    run("ZeroshotCLIP2", *prepared, trains=False).evaluations(COSTS, kept)
    zero_shot = run("ZeroshotCLIP", *prepared, trains=False)
    assert zero_shot.training(COSTS, kept) == 0
    assert zero_shot.evaluations(COSTS, kept) == 3 * 10 + 7 * 10
    assert zero_shot.evaluations(COSTS, set()) == 3 * 10 + 7 * 10 + 250 * 5
