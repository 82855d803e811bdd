import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR, StepLR

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.optim.lr_scheduler import ConstantWarmupScheduler, LinearWarmupScheduler


def optim_cfg(**settings: object):
    cfg = get_cfg_default().OPTIM
    for key, value in {"NAME": "sgd", "LR": 0.002, "LR_SCHEDULER": "cosine", **settings}.items():
        setattr(cfg, key, value)
    return cfg


def optimizer(lr: float = 0.002) -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def rates(scheduler: object, optim: SGD, epochs: int) -> list[float]:
    seen = []
    for _ in range(epochs):
        seen.append(optim.param_groups[0]["lr"])
        optim.step()
        scheduler.step()
    return seen


def built(epochs: int, **settings: object) -> list[float]:
    optim = optimizer()
    return rates(build_lr_scheduler(optim, optim_cfg(MAX_EPOCH=epochs, **settings)), optim, epochs)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"WARMUP_TYPE": "constant", "WARMUP_EPOCH": 1}, [1e-05, 0.002, 0.00180902, 0.00130902, 0.000690983]),
        (
            {"WARMUP_TYPE": "linear", "WARMUP_EPOCH": 3},
            [1e-05, 0.000666667, 0.00133333, 0.002, 0.00192388, 0.00170711, 0.00138268, 0.001],
        ),
        ({}, [0.002, 0.00180902, 0.00130902, 0.000690983, 0.000190983]),
        (
            {"WARMUP_TYPE": "constant", "WARMUP_EPOCH": 1, "WARMUP_RECOUNT": False},
            [1e-05, 0.002, 0.00144721, 0.000763932, 0.000211146],
        ),
    ],
)
def test_published_rates(settings, expected):
    assert built(len(expected), **settings) == pytest.approx(expected, rel=5e-6)  # six digits are given


@pytest.mark.parametrize(
    ("name", "fused"), [("sgd", True), ("adam", True), ("amsgrad", True), ("adamw", True), ("radam", None)]
)
def test_fused_on_a_gpu(name, fused):
    for device, expected in (("cuda", fused), ("cpu", None)):
        with FakeTensorMode():
            optim = build_optimizer([nn.Parameter(torch.empty(2, device=device))], optim_cfg(NAME=name))
        assert optim.param_groups[0].get("fused") is expected


def test_warmup_as_long_as_the_run_stays_defined():
    linear = built(3, WARMUP_TYPE="linear", WARMUP_EPOCH=3, WARMUP_RECOUNT=False)
    assert linear == pytest.approx([1e-5, 0.002 / 3, 0.004 / 3])


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({"LR_SCHEDULER": "single_step", "STEPSIZE": (9, 3)}, lambda o: StepLR(o, 3, 0.1)),
        ({"LR_SCHEDULER": "single_step"}, lambda o: LambdaLR(o, lambda epoch: 1.0)),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": (2, 5, 6)}, lambda o: MultiStepLR(o, [2, 5, 6], 0.1)),
        ({"LR_SCHEDULER": "cosine"}, lambda o: CosineAnnealingLR(o, 8.0)),
    ],
)
def test_plain_schedules_equal_torchs(settings, reference):
    optim = optimizer()
    assert built(8, **settings) == pytest.approx(rates(reference(optim), optim, 8), rel=1e-9)


@pytest.mark.parametrize(
    "successor",
    [
        lambda o: CosineAnnealingLR(o, 6, eta_min=1e-4),
        lambda o: StepLR(o, 2, 0.5),
        lambda o: MultiStepLR(o, [1, 1, 3], 0.5),
    ],
)
def test_warmup_classes_take_torchs_schedulers(successor):
    plain, warm = optimizer(), optimizer()
    expected = rates(successor(plain), plain, 6)
    scheduler = ConstantWarmupScheduler(warm, successor(warm), 2, 1e-6)
    assert rates(scheduler, warm, 8) == pytest.approx([1e-6, 1e-6, *expected])
    warm = optimizer()
    scheduler = LinearWarmupScheduler(warm, successor(warm), 2, 1e-6)
    assert rates(scheduler, warm, 8) == pytest.approx([1e-6, 0.001, *expected])
    with pytest.raises(TypeError, match="LambdaLR"):
        ConstantWarmupScheduler(warm, LambdaLR(warm, lambda epoch: 1.0), 1, 1e-6)


def test_state_is_plain_numbers_and_resuming_keeps_the_schedule():
    cfg = optim_cfg(MAX_EPOCH=6, WARMUP_EPOCH=1, WARMUP_TYPE="constant")
    optim = optimizer()
    scheduler = build_lr_scheduler(optim, cfg)
    straight = rates(scheduler, optim, 6)
    optim = optimizer()
    scheduler = build_lr_scheduler(optim, cfg)
    rates(scheduler, optim, 3)
    state, optim_state = scheduler.state_dict(), optim.state_dict()
    assert state == {"last_epoch": 3, "base_lrs": [0.002]}
    resumed = optimizer()
    scheduler = build_lr_scheduler(resumed, cfg)
    resumed.load_state_dict(optim_state)
    scheduler.load_state_dict(state)
    assert rates(scheduler, resumed, 3) == straight[3:] and scheduler.get_last_lr() == [resumed.param_groups[0]["lr"]]


def test_every_group_keeps_its_own_base_rate():
    optim = SGD(
        [{"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0}, {"params": [nn.Parameter(torch.zeros(1))]}], 0.5
    )
    scheduler = build_lr_scheduler(optim, optim_cfg(MAX_EPOCH=2))
    scheduler.step()
    half = (1 + math.cos(math.pi / 2)) / 2
    assert scheduler.get_last_lr() == pytest.approx([half, 0.5 * half])


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({}, lambda k, n: (1 + math.cos(math.pi * k / n)) / 2),
        (
            {"WARMUP_TYPE": "constant", "WARMUP_EPOCH": 1, "WARMUP_CONS_LR": 1e-5},
            lambda k, n: 0.005 if k < n // 4 else (1 + math.cos(math.pi * (k - n // 4) / n)) / 2,
        ),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": (1, 3)}, lambda k, n: 0.1 ** ((k >= n // 4) + (k >= 3 * n // 4))),
        ({"LR_SCHEDULER": "single_step", "STEPSIZE": (2,)}, lambda k, n: 0.1 ** (k // (n // 2))),
        ({"LR_SCHEDULER": "single_step", "STEPSIZE": 2}, lambda k, n: 0.1 ** (k // (n // 2))),
        ({"LR_SCHEDULER": "single_step"}, lambda k, n: 1.0),
    ],
)
def test_a_schedule_of_steps(settings, rate, steps):
    """Of 4 epochs with so many steps: rate(k, n) of the base rate at step k of n; epochs become steps everywhere."""
    cfg, optim = optim_cfg(MAX_EPOCH=4, SCHEDULE_UNIT="step", **settings), optimizer()
    found = rates(build_lr_scheduler(optim, cfg, steps), optim, 4 * steps)
    assert found == pytest.approx([0.002 * rate(k, 4 * steps) for k in range(4 * steps)])
    assert cfg.MAX_EPOCH == 4


def test_a_schedule_of_epochs_does_not_see_the_steps():
    optim = optimizer()
    assert rates(build_lr_scheduler(optim, optim_cfg(MAX_EPOCH=4), 7), optim, 4) == built(4)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"LR_SCHEDULER": "poly"}, ValueError, "poly"),
        ({"SCHEDULE_UNIT": "batch"}, ValueError, 'OPTIM.SCHEDULE_UNIT must be "epoch" or "step", but got "batch"'),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": 3, "SCHEDULE_UNIT": "step"}, TypeError, "3"),
        ({"WARMUP_TYPE": "quadratic", "WARMUP_EPOCH": 1}, ValueError, "quadratic"),
        ({"LR_SCHEDULER": "single_step", "STEPSIZE": (1.5,)}, ValueError, "1.5"),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": 3}, TypeError, "3"),
    ],
)
def test_bad_schedules(settings, error, words):
    with pytest.raises(error, match=words):
        built(2, **settings)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "dampening": 0, "nesterov": False}),
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.999), "amsgrad": False}),
        ("amsgrad", torch.optim.Adam, {"amsgrad": True}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.999)}),
        ("radam", torch.optim.RAdam, {"betas": (0.9, 0.999)}),
        ("rmsprop", torch.optim.RMSprop, {"alpha": 0.99, "momentum": 0.9}),
    ],
)
def test_optimizers(name, kind, expected):
    model = nn.Linear(2, 2)
    for source in (model, list(model.parameters()), model.parameters(), [{"params": list(model.parameters())}]):
        optim = build_optimizer(source, optim_cfg(NAME=name))
        group = optim.param_groups[0]
        assert type(optim) is kind and len(group["params"]) == 2
        assert {"lr": 0.002, "weight_decay": 5e-4, **expected}.items() <= group.items()


def test_staged_rates():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    optim = build_optimizer(model, optim_cfg(STAGED_LR=True, NEW_LAYERS="1"))
    assert [group["lr"] for group in optim.param_groups] == pytest.approx([0.0002, 0.002])
    assert optim.param_groups[1]["params"][0] is model[1].weight
    with pytest.raises(TypeError, match="list"):
        build_optimizer(list(model.parameters()), optim_cfg(STAGED_LR=True))
    with pytest.raises(ValueError, match=r"\['2'\]"):
        build_optimizer(model, optim_cfg(STAGED_LR=True, NEW_LAYERS=("2",)))
    with pytest.warns(UserWarning, match="ignored"):
        build_optimizer(model, optim_cfg(STAGED_LR=True), param_groups=model.parameters())


def test_unknown_optimizer():
    with pytest.raises(ValueError, match=r"optim must be one of \['adam'.*but got lion"):
        build_optimizer(nn.Linear(1, 1), optim_cfg(NAME="lion"))


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw", "radam"])
def test_the_eps_of_adam_is_a_setting(name):
    assert build_optimizer(nn.Linear(1, 1), optim_cfg(NAME=name, ADAM_EPS=1e-3)).defaults["eps"] == 1e-3
    assert build_optimizer(nn.Linear(1, 1), optim_cfg(NAME=name)).defaults["eps"] == 1e-8
