"""Scenes of the embedded world: one thing, a surface, a counted group, two things and their relation."""

from dataclasses import replace

import numpy as np

from .render import SHAPES, TEXTURES, Thing

PLURALS = {shape: f"{shape}es" if shape == "cross" else f"{shape}s" for shape in SHAPES}
COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5}
RELATIONS = ("above", "left of", "inside")


def pick(rng: np.random.Generator, words: dict[str, object]) -> str:
    """A random word of a dictionary."""
    return list(words)[rng.integers(len(words))]


def single(colour: str, texture: str, shape: str, rng: np.random.Generator) -> Thing:
    """One thing somewhere near the middle."""
    x, y = rng.uniform(-0.15, 0.15, 2)
    return Thing(shape, colour, texture, x, y, rng.uniform(0.6, 0.85), rng.uniform(-0.25, 0.25))


def numeral(colour: str, digit: str, rng: np.random.Generator) -> Thing:
    """A printed digit, larger than other things and stretched."""
    thing = single(colour, "solid", digit, rng)
    return replace(thing, radius=rng.uniform(0.75, 1.15), stretch=rng.uniform(0.8, 1.25))


def surface(colour: str, texture: str) -> Thing:
    """One texture that fills the picture."""
    return Thing("square", colour, texture, radius=3.0)


def group(number: int, colour: str, shape: str, rng: np.random.Generator) -> tuple[Thing, ...]:
    """Several equal things that do not overlap."""
    cells = rng.permutation(9)[:number]
    texture = pick(rng, TEXTURES) if rng.random() < 0.3 else "solid"
    return tuple(
        Thing(
            shape,
            colour,
            texture,
            *(np.array([cell % 3 - 1, cell // 3 - 1]) * 0.62 + rng.uniform(-0.06, 0.06, 2)),
            rng.uniform(0.23, 0.3),
            rng.uniform(-0.3, 0.3),
        )
        for cell in cells
    )


def pair(
    first: str, relation: str, second: str, colours: tuple[str, str], rng: np.random.Generator
) -> tuple[Thing, ...]:
    """Two solid things, the first one above, left of or inside the second."""
    x, y = rng.uniform(-0.08, 0.08, 2)
    turn_a, turn_b = rng.uniform(-0.25, 0.25, 2)
    if relation == "inside":
        outer = Thing(second, colours[1], x=x, y=y, radius=rng.uniform(0.8, 0.9), angle=turn_b)
        return outer, Thing(first, colours[0], x=x, y=y + 0.05, radius=rng.uniform(0.36, 0.42), angle=turn_a)
    shift = (0, 0.48) if relation == "above" else (0.48, 0)
    radius_a, radius_b = rng.uniform(0.38, 0.46, 2)
    return (
        Thing(first, colours[0], x=x - shift[0], y=y - shift[1], radius=radius_a, angle=turn_a),
        Thing(second, colours[1], x=x + shift[0], y=y + shift[1], radius=radius_b, angle=turn_b),
    )
