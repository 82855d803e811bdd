"""The renderer of the embedded world: small pictures of things with a colour, a texture and a shape.

Coordinates run from -1 (left, top) to 1 (right, bottom). A shape is a signed distance (negative inside) on the unit
disc, a texture a pattern in [0, 1], a style the way a scene is put on paper. Everything is numpy on a 32 x 32 grid,
well under a millisecond an image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 32
PIXEL = 2 / SIZE
Y, X = (np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5) * PIXEL - 1
Array = np.ndarray

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.95, 0.50, 0.08),
    "yellow": (0.93, 0.87, 0.15),
    "green": (0.15, 0.62, 0.20),
    "cyan": (0.20, 0.80, 0.85),
    "blue": (0.15, 0.25, 0.85),
    "purple": (0.52, 0.18, 0.65),
    "pink": (0.95, 0.55, 0.75),
    "brown": (0.45, 0.27, 0.12),
    "white": (0.95, 0.95, 0.95),
}


def polygon(x: Array, y: Array, sides: int, inner: float) -> Array:
    """Distance to a regular polygon (inner = cos(pi / sides)) or, with a smaller inner radius, to a star."""
    sector = np.pi / sides
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    radius = np.hypot(x, y)
    # One edge of the folded figure, from the tip (0, 1) to the inner corner.
    corner_x, corner_y = inner * np.sin(sector), inner * np.cos(sector)
    normal_x, normal_y = 1 - corner_y, corner_x
    return ((radius * np.sin(angle)) * normal_x + (radius * np.cos(angle) - 1) * normal_y) / np.hypot(
        normal_x, normal_y
    )


def box(x: Array, y: Array, width: float, height: float) -> Array:
    """Distance to a rectangle of half sides width and height around the origin."""
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def heart(x: Array, y: Array) -> Array:
    """Two discs and the rotated square below them."""
    x = np.abs(x)
    lobe = np.hypot(x - 0.42, y + 0.3) - 0.52
    tip = np.maximum((x + y - 0.86) * 0.71, -y - 0.3)
    return np.minimum(lobe, tip)


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.85,
    "square": lambda x, y: box(x, y, 0.75, 0.75),
    "triangle": lambda x, y: polygon(x, y - 0.15, 3, 0.5),
    "star": lambda x, y: polygon(x, y, 5, 0.42),
    "cross": lambda x, y: np.minimum(box(x, y, 0.28, 0.9), box(x, y, 0.9, 0.28)),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.65) - 0.22,
    "heart": heart,
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 0.9, 0.72 - np.hypot(x - 0.42, y)),
}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
    "solid": lambda u, v: np.zeros_like(u),
    "striped": lambda u, v: np.sin(u) > 0,
    "dotted": lambda u, v: np.sin(u) * np.sin(v) > 0.45,
    "checkered": lambda u, v: np.sin(u * 0.8) * np.sin(v * 0.8) > 0,
    "wavy": lambda u, v: np.sin(u + 1.3 * np.sin(v * 0.8)) > 0,
    "speckled": lambda u, v: np.sin(u * 12.99 + np.sin(v * 78.23) * 43.76) > 0.55,
}


BOARD = np.array([0.12, 0.22, 0.18])


@dataclass(frozen=True)
class Thing:
    """One object: its words, its place and size in the picture, its turn in radians."""

    shape: str
    colour: str
    texture: str = "solid"
    x: float = 0.0
    y: float = 0.0
    radius: float = 0.6
    angle: float = 0.0
    stretch: float = 1.0


@dataclass(frozen=True)
class Scene:
    """What is in a picture, painted in this order, and how: see ``STYLES``."""

    things: tuple[Thing, ...]
    style: str = "photo"
    noise: float = 0.06
    grain: tuple[float, float] = (9.0, 13.0)  # range of the textures' frequency, in radians per unit


@cache
def glyph(digit: str) -> Array:
    """(64, 64) coverage of a printed digit, from the font that comes with Pillow."""
    image = Image.new("L", (64, 64))
    font = ImageFont.load_default(72)
    ImageDraw.Draw(image).text((32, 32), str(DIGITS.index(digit)), 255, font, anchor="mm", stroke_width=3)
    return np.asarray(image, np.float32) / 255


def signed_distance(shape: str, x: Array, y: Array) -> Array:
    """Distance to a shape of unit size, negative inside; for a digit only its sign and edge are right."""
    if shape in SHAPES:
        return SHAPES[shape](x, y)
    column, row = (np.clip(np.rint((axis + 1) * 31.5), 0, 63).astype(np.intp) for axis in (x, y))
    inside = (np.abs(x) < 1) & (np.abs(y) < 1)
    return 0.15 - 0.3 * glyph(shape)[row, column] * inside


def coverage(distance: Array, unit: float) -> Array:
    """Share of each pixel that is inside; unit is the length of a pixel in the distance's scale."""
    return np.clip(0.5 - distance / unit, 0, 1)[..., None]


def shades(thing: Thing, rng: np.random.Generator) -> tuple[Array, Array]:
    """A thing's colour, a little off the dictionary's, and the darker or lighter one of its pattern."""
    colour = np.clip(np.array(COLOURS[thing.colour], np.float32) + rng.normal(0, 0.06, 3), 0, 1)
    strength = rng.uniform(0.15, 0.4)
    darken = thing.colour == "white" or rng.random() < 0.5
    return colour, colour * strength if darken else 1 - (1 - colour) * strength


def pattern(texture: str, grain: tuple[float, float], rng: np.random.Generator) -> Array:
    """(H, W, 1) where the second shade goes, over the whole picture, slightly turned, randomly scaled and shifted."""
    turn, frequency = rng.uniform(-0.4, 0.4), rng.uniform(*grain)
    cosine, sine = np.cos(turn) * frequency, np.sin(turn) * frequency
    phase_u, phase_v = rng.uniform(0, 2 * np.pi, 2)
    return TEXTURES[texture](X * cosine + Y * sine + phase_u, Y * cosine - X * sine + phase_v)[..., None]


def paint(thing: Thing, grain: tuple[float, float], rng: np.random.Generator) -> tuple[Array, Array]:
    """A thing's plain colour, and its surface (H, W, 3) over the whole picture."""
    colour, second = shades(thing, rng)
    return colour, np.where(pattern(thing.texture, grain, rng), second, colour).astype(np.float32)


def backdrop(rng: np.random.Generator) -> Array:
    """A dull surface with a soft gradient."""
    colour = rng.uniform(0.1, 0.8) + rng.normal(0, 0.06, 3)
    slope = rng.normal(0, 0.08, 2)
    return (colour + (X * slope[0] + Y * slope[1])[..., None]).astype(np.float32)


def place(thing: Thing) -> tuple[Array, Array, float]:
    """Coordinates of every pixel in the thing's own frame, and the length of a pixel there."""
    cosine, sine = np.cos(thing.angle) / thing.radius, np.sin(thing.angle) / thing.radius
    dx, dy = X - thing.x, Y - thing.y
    return (dx * cosine + dy * sine) * thing.stretch, (dy * cosine - dx * sine) / thing.stretch, PIXEL / thing.radius


def photo(scene: Scene, rng: np.random.Generator) -> Array:
    """Painted things on a dull surface under uneven light."""
    image = backdrop(rng)
    for thing in scene.things:
        x, y, unit = place(thing)
        alpha = coverage(signed_distance(thing.shape, x, y), unit)
        image = image + alpha * (paint(thing, scene.grain, rng)[1] - image)
    slope = rng.normal(0, 0.15, 2)
    return image * (rng.uniform(0.7, 1.15) + X * slope[0] + Y * slope[1])[..., None]


def line_art(scene: Scene, rng: np.random.Generator, paper: Array, wash: float, ink: Array | None = None) -> Array:
    """Outlines (in the thing's own colours, or in ink) with a thin wash of paint inside, on plain paper."""
    image = np.broadcast_to(paper, (SIZE, SIZE, 3)).astype(np.float32)
    for thing in scene.things:
        x, y, unit = place(thing)
        distance = signed_distance(thing.shape, x, y)
        colour, surface = paint(thing, scene.grain, rng)
        image = image + wash * coverage(distance, unit) * (surface - image)
        line = coverage(np.abs(distance) - 0.9 * unit, unit)
        image = image + line * ((colour if ink is None else ink) - image)
    return image


def drawing(scene: Scene, rng: np.random.Generator) -> Array:
    """Coloured outlines on light paper."""
    return line_art(scene, rng, paper=rng.uniform(0.75, 0.9, 3), wash=0.25)


def chalk(scene: Scene, rng: np.random.Generator) -> Array:
    """Coloured outlines on a dark board, hardly any paint inside."""
    return line_art(scene, rng, paper=BOARD + rng.normal(0, 0.04, 3), wash=0.12)


def pen(scene: Scene, rng: np.random.Generator) -> Array:
    """Coloured outlines on light paper, more paint than in a ``drawing``."""
    return line_art(scene, rng, paper=rng.uniform(0.75, 0.95, 3), wash=0.45)


def board(scene: Scene, rng: np.random.Generator) -> Array:
    """Coloured outlines on a dark board."""
    return line_art(scene, rng, paper=BOARD + rng.normal(0, 0.05, 3), wash=0.4)


def pencil(scene: Scene, rng: np.random.Generator) -> Array:
    """Grey outlines on white paper."""
    return line_art(scene, rng, paper=rng.uniform(0.85, 1.0, 3), wash=0.6, ink=np.full(3, rng.uniform(0.1, 0.35)))


def craft(scene: Scene, rng: np.random.Generator) -> Array:
    """Coloured outlines on brown paper."""
    return line_art(scene, rng, paper=np.array([0.62, 0.5, 0.35]) + rng.normal(0, 0.06, 3), wash=0.55)


STYLES: dict[str, Callable[[Scene, np.random.Generator], Array]] = {
    "photo": photo,
    "drawing": drawing,
    "chalk": chalk,
    "pen": pen,
    "board": board,
    "pencil": pencil,
    "craft": craft,
}
DRAWN = ("pen", "board", "pencil", "craft")  # the family of the source and its targets; no caption ever showed them


def to_pixels(image: Array) -> Array:
    """Intensities in [0, 1] to (H, W, 3) bytes."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def render(scene: Scene, rng: np.random.Generator) -> Array:
    """Draw a scene; every random choice that the scene leaves open (light, shades, noise) comes from rng."""
    image = STYLES[scene.style](scene, rng)
    return to_pixels(image + scene.noise * rng.standard_normal((SIZE, SIZE, 3), np.float32))
