"""Options of methods: every limit of a key is checked, wherever the class stands, and told by the key's full name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, asdict, dataclass, fields

import pytest

import configs
from dassl.config import CfgNode, get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from tests.clip.small import small_clip
from trainers import CoOp, Method, extend_cfg, register
from trainers.method import option
from trainers.options import check_options, defaults, read_options

from .world import Make, method_class


@dataclass(frozen=True)
class Inner:
    RATE: float = option(0.5, above=0)

    def check(self, where: str) -> None:
        if self.RATE == 7:
            raise ValueError(f"{where}.RATE must not be seven")


class Outsider(Method):
    """Of no package of ours; its section is its own."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        WORD: str = option("a", choices=("a", "b"))
        COUNT: int = option(3, least=2)
        SCALE: float = option(1.0, above=0)
        FREE: float = 0.0
        SWITCH: bool = False
        INNER: Inner = Inner()


BAD = [
    ({"WORD": "c"}, "WORD must be one of a, b, but is 'c'"),
    ({"WORD": 1}, "WORD must be of type str, but is 1"),
    ({"COUNT": 1}, "COUNT must be 2 or more, but is 1"),
    ({"COUNT": 2.5}, "COUNT must be of type int, but is 2.5"),
    ({"COUNT": True}, "COUNT must be of type int, but is True"),
    ({"COUNT": "3"}, "COUNT must be of type int, but is '3'"),
    ({"SCALE": 0.0}, "SCALE must be larger than 0, but is 0.0"),
    ({"SCALE": 0}, "SCALE must be larger than 0, but is 0"),
    ({"SCALE": False}, "SCALE must be of type float, but is False"),
    ({"FREE": math.nan}, "FREE must be a finite number, but is nan"),
    ({"FREE": -math.inf}, "FREE must be a finite number, but is -inf"),
    ({"SWITCH": 1}, "SWITCH must be of type bool, but is 1"),
    ({"PREC": "half"}, "PREC must be one of fp32, fp16, bf16, amp, amp_bf16, but is 'half'"),
    ({"INNER": Inner(RATE=-1.0)}, "INNER.RATE must be larger than 0, but is -1.0"),
    ({"INNER": Inner(RATE=7.0)}, "INNER.RATE must not be seven"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=[message for _, message in BAD])
def test_a_value_beyond_its_limits(values: dict, message: str) -> None:
    """Refused by the method itself, and in a config tree, with the same words."""
    with pytest.raises(ValueError, match=f"^TRAINER.OUTSIDER.{message}$"):
        Outsider(small_clip(), Outsider.Options(**values))
    section = CfgNode(asdict(Outsider.Options(**values)))
    with pytest.raises(ValueError, match=f"^TRAINER.OUTSIDER.{message}$"):
        read_options(Outsider.Options, section, Outsider.section())


def test_values_at_their_limits() -> None:
    chosen = Outsider.Options("bf16", "b", 2, 1, -3, True, Inner(1e-9))
    assert Outsider(small_clip(), chosen).options is chosen
    assert read_options(Outsider.Options, CfgNode(asdict(chosen)), "here") == chosen
    assert Outsider(small_clip()).options == Outsider.Options()


def test_options_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Outsider.Options().COUNT = 4


@pytest.mark.parametrize("name", configs.methods())
def test_a_methods_section_holds_its_options(name: str) -> None:
    """The config tree's section is the dataclass; its defaults are within the limits."""
    method, cfg = method_class(name), get_cfg_default()
    extend_cfg(cfg)
    section = cfg.TRAINER[method.section().removeprefix("TRAINER.")]
    assert list(section) == [one.name for one in fields(method.Options)] == list(defaults(method.Options))
    assert read_options(method.Options, section, method.section()) == method.Options()
    check_options(method.Options(), "")


# In the section of the class

OWN_SECTION = [
    ("POMP", "CORRECTION_LOG", "log2", "must be one of log10, ln, but is 'log2'"),
    ("POMP", "NEG_SAMPLING_MODE", "hard", "must be one of random, but is 'hard'"),
    ("RPP", "QKV", "qk", "must be one of qkv, kv, shared, but is 'qk'"),
    ("RPP", "TEMPERATURE", -1.0, "must be larger than 0, but is -1.0"),
    ("RPP", "TEMPERATURE", math.nan, "must be a finite number, but is nan"),
    ("RPP", "TEMPERATURE", math.inf, "must be a finite number, but is inf"),
    ("RPP", "TEMPERATURE", 0.0, "must be larger than 0, but is 0.0"),
    ("RPP", "LAMBDA", -1.0, "must be 0 or more, but is -1.0"),
    ("RPP", "LAMBDA", math.nan, "must be a finite number, but is nan"),
    ("RPP", "LAMBDA", math.inf, "must be a finite number, but is inf"),
    ("RPP", "TEACHER.TEMPLATES", "a photo", "must be dataset, ensemble or a text with {}"),
]


@pytest.fixture
def forget() -> Iterator[list[str]]:
    """Names of methods that are registered for one test."""
    names: list[str] = []
    yield names
    for name in names:
        TRAINER_REGISTRY._objects.pop(name)


@pytest.mark.parametrize("derived", [False, True])
@pytest.mark.parametrize(("method", "key", "value", "message"), OWN_SECTION)
def test_options_are_checked_in_the_section_of_the_class(
    method: str, key: str, value: object, message: str, derived: bool, make: Make, forget: list[str]
) -> None:
    """A subclass with a section of its own does not lose the checks."""
    if derived:
        register(type("Child", (method_class(method),), {}))
        forget.append("Child")
        method = "Child"
    with pytest.raises(ValueError, match=f"^TRAINER.{method.upper()}.{key} {message}"):
        make(method, {"PREC": "fp32", key: value})


def test_a_subclass_adds_a_key(make: Make, forget: list[str]) -> None:
    class Louder(CoOp):
        @dataclass(frozen=True)
        class Options(CoOp.Options):
            VOLUME: float = option(1.0, least=0)

    register(Louder)
    forget.append("Louder")
    assert make("Louder", {"PREC": "fp32", "VOLUME": 11.0, "N_CTX": 2}).options == Louder.Options(
        "fp32", 2, VOLUME=11.0
    )
    with pytest.raises(ValueError, match=r"^TRAINER.LOUDER.VOLUME must be 0 or more, but is -1.0"):
        make("Louder", {"VOLUME": -1.0})
    with pytest.raises(ValueError, match=r"^TRAINER.LOUDER.CLASS_TOKEN_POSITION must be one of end, middle, front"):
        make("Louder", {"CLASS_TOKEN_POSITION": "back"})
