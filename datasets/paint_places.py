"""Painters of the scenes and patterns of the drawn data set; see `paint_life`."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from hyperpq.datasets.canvas import INK, WHITE, Canvas, Colour, Painter, arc


def _waves(c: Canvas, horizon: float, hue: float, value: float) -> None:
    c.ground(horizon, c.colour(hue, 0.65, value), 0.0)
    light = c.colour(hue, 0.35, min(1, value + 0.2))
    for x, y in c.scatter(16, -0.95, horizon - 0.08):
        c.line([(x - 0.14, y), (x, y + 0.03), (x + 0.14, y)], 0.018, light)


def _sailboat(c: Canvas) -> None:
    c.sky(c.colour(0.56, 0.5, 0.93), c.colour(0.55, 0.12, 0.98))
    c.clouds(2, 0.5)
    _waves(c, c.uniform(-0.2, 0.0), 0.58, 0.62)
    c.subject(0.5, 0.75, 0.08)
    c.line([(0, -0.4), (0, 0.95)], 0.05, (110, 75, 50))
    c.polygon([(0.05, 0.92), (0.05, -0.25), (0.72, -0.25)], WHITE)
    c.polygon([(-0.06, 0.75), (-0.06, -0.25), (-0.5, -0.25)], c.colour(0.0, 0.65, 0.9))
    c.polygon([(-0.7, -0.35), (0.8, -0.35), (0.5, -0.68), (-0.5, -0.68)], c.colour(0.05, 0.6, 0.5))


def _sunset(c: Canvas) -> None:
    c.sky(c.colour(0.78, 0.5, 0.55), c.colour(0.08, 0.75, 1.0))
    horizon = c.uniform(-0.35, -0.1)
    x, radius = c.uniform(-0.5, 0.5), c.uniform(0.26, 0.4)
    c.disc(x, horizon + c.uniform(0.0, 0.2), radius, c.colour(0.13, 0.6, 1.0))
    _waves(c, horizon, 0.75, 0.42)
    for y in np.arange(horizon - 0.08, -1, -0.13):
        half = radius * c.uniform(0.3, 0.9)
        c.line([(x - half, y), (x + half, y)], 0.045, c.colour(0.1, 0.6, 1.0))


def _lighthouse(c: Canvas) -> None:
    c.sky(c.colour(0.58, 0.5, 0.75), c.colour(0.54, 0.18, 0.96))
    _waves(c, c.uniform(-0.45, -0.3), 0.56, 0.5)
    c.subject(0.65, 0.85, 0.02)
    c.ellipse(0, -0.95, 0.85, 0.35, c.colour(0.08, 0.25, 0.38))
    c.polygon([(0.1, 0.78), (1.9, 1.15), (1.9, 0.5)], c.colour(0.15, 0.3, 1.0))
    red = c.colour(0.0, 0.75, 0.83)
    for step in range(5):
        low, high = 0.28 - 0.025 * step, 0.28 - 0.025 * (step + 1)
        y = -0.72 + 0.26 * step
        outline = [(-low, y), (low, y), (high, y + 0.26), (-high, y + 0.26)]
        c.polygon(outline, WHITE if step % 2 else red)
    c.polygon([(-0.14, 0.62), (0.14, 0.62), (0.14, 0.88), (-0.14, 0.88)], (255, 235, 140))
    c.polygon([(-0.2, 0.88), (0.2, 0.88), (0, 1.1)], red)


def _peaks(c: Canvas) -> None:
    c.sky(c.colour(0.58, 0.5, 0.9), c.colour(0.56, 0.15, 0.98))
    for x in (c.uniform(-0.8, -0.5), c.uniform(0.5, 0.8), c.uniform(-0.2, 0.2)):
        c.place(x, -0.75, c.uniform(0.85, 1.2))
        c.polygon([(-0.95, 0), (0, 1.2), (0.95, 0)], c.colour(0.62, 0.25, 0.5))
        c.polygon([(0, 1.2), (0.95, 0), (0.15, 0)], c.colour(0.63, 0.3, 0.4))
        snow = [(0, 1.2), (-0.32, 0.8), (-0.15, 0.86), (-0.02, 0.72), (0.13, 0.87), (0.32, 0.8)]
        c.polygon(snow, WHITE)
    c.ground(c.uniform(-0.65, -0.5), c.colour(0.36, 0.5, 0.45))


def _dunes(c: Canvas) -> None:
    c.sky(c.colour(0.55, 0.4, 0.95), c.colour(0.11, 0.25, 1.0))
    c.disc(c.uniform(-0.7, 0.7), c.uniform(0.45, 0.7), 0.17, c.colour(0.14, 0.3, 1.0))
    for step in range(4):
        c.ground(0.1 - 0.28 * step, c.colour(0.085, 0.62, 0.97 - 0.1 * step), c.uniform(0.08, 0.16))
    c.place(c.uniform(-0.6, 0.6), c.uniform(-0.65, -0.4), c.uniform(0.28, 0.4))
    green = c.colour(0.37, 0.55, 0.42)
    c.line([(0, -1), (0, 1)], 0.32, green)
    c.disc(0, 1, 0.16, green)
    for sign, y in ((1, 0.1), (-1, -0.25)):
        c.line([(0, y), (sign * 0.55, y), (sign * 0.55, y + 0.6)], 0.22, green)
        c.disc(sign * 0.55, y + 0.6, 0.11, green)


def _volcano(c: Canvas) -> None:
    c.sky(c.colour(0.68, 0.4, 0.4), c.colour(0.04, 0.55, 0.85))
    c.place(c.uniform(-0.3, 0.3), -0.8, c.uniform(0.95, 1.2))
    for k in range(7):
        x, grey = c.uniform(-0.12, 0.12) * (1 + k), c.colour(0.75, 0.1, 0.35 + 0.05 * k)
        c.disc(x, 0.95 + 0.12 * k, 0.13 + 0.035 * k, grey)
    c.polygon([(-1, 0), (-0.2, 0.95), (0.2, 0.95), (1, 0)], c.colour(0.02, 0.3, 0.26))
    lava = c.colour(0.04, 0.92, 1.0)
    c.ellipse(0, 0.95, 0.2, 0.06, lava)
    for x in (-0.1, 0.02, 0.12):
        c.line([(x, 0.95), (1.8 * x, 0.6), (2.2 * x + 0.06, c.uniform(0.1, 0.4))], 0.09, lava)
    c.ground(c.uniform(-0.78, -0.65), c.colour(0.03, 0.3, 0.18))


def _night(c: Canvas) -> None:
    c.sky(c.colour(0.65, 0.7, 0.2), c.colour(0.67, 0.6, 0.45))
    for x, y in c.scatter(30, -0.4, 1):
        c.disc(x, y, c.uniform(0.01, 0.03), c.colour(0.14, 0.15, 1.0))
    x, y, radius = c.uniform(-0.5, 0.5), c.uniform(0.15, 0.55), c.uniform(0.24, 0.36)
    around = arc(x, y, radius, radius, 0.25, 0.75, 0.4)
    # The inner edge of a crescent is half an ellipse between the same two ends.
    inner = arc(x, y, 0.45 * radius, radius, 0.75, 0.25, 0.4)
    c.polygon(np.concatenate([around, inner]), c.colour(0.14, 0.25, 1.0))
    c.ground(c.uniform(-0.55, -0.4), c.colour(0.68, 0.5, 0.16), 0.1)


def _rainbow(c: Canvas) -> None:
    c.sky(c.colour(0.57, 0.35, 0.85), c.colour(0.54, 0.1, 0.98))
    x, radius = c.uniform(-0.35, 0.35), c.uniform(0.85, 1.1)
    for step, hue in enumerate((0.0, 0.07, 0.15, 0.33, 0.57, 0.77)):
        ring = radius - 0.075 * step
        c.line(arc(x, -0.5, ring, ring, 0, 0.5), 0.085, c.colour(hue, 0.65, 0.95, 0.4))
    c.clouds(2, 0.2)
    c.ground(c.uniform(-0.6, -0.4), c.colour(0.28, 0.55, 0.62), 0.1)


def _balloon(c: Canvas) -> None:
    c.sky(c.colour(0.58, 0.5, 0.93), c.colour(0.54, 0.15, 0.98))
    c.clouds(3, -0.5)
    c.subject(0.6, 0.8, 0.1)
    hue = c.uniform(0.95, 1.08)
    for sign in (1, -1):
        c.line([(sign * 0.5, 0), (sign * 0.13, -0.72)], 0.025, INK)
    for step, half in enumerate((0.6, 0.44, 0.24, 0.08)):
        colour = c.colour(0.13, 0.6, 1.0) if step % 2 else c.colour(hue, 0.75, 0.9)
        c.polygon(arc(0, 0.35, half, 0.6, 0, 0.5), colour)
        c.polygon([(-half, 0.36), (half, 0.36), (half * 0.35, -0.4), (-half * 0.35, -0.4)], colour)
    c.polygon([(-0.16, -0.7), (0.16, -0.7), (0.13, -0.98), (-0.13, -0.98)], (150, 100, 55))


def _pair(c: Canvas, hue: float) -> tuple[Colour, Colour]:
    """A pale and a strong colour of nearby hues."""
    hue = hue + c.uniform(-0.06, 0.06)
    return c.colour(hue, 0.2, 0.96), c.colour(hue + 0.04, 0.72, 0.68)


def _loose(c: Canvas, turn: float = 0.2) -> None:
    """Shift, scale and turn a pattern a little."""
    x, y = c.uniform(-0.2, 0.2), c.uniform(-0.2, 0.2)
    c.place(x, y, c.uniform(0.8, 1.15), c.uniform(-turn, turn))


def _bands(c: Canvas, step: float, width: float, colour: Colour, shift: float) -> None:
    for x in np.arange(-3, 3, step) + shift * step:
        c.line([(x, -3), (x, 3)], width, colour)


def _stripes(c: Canvas) -> None:
    pale, strong = _pair(c, 0.6)
    c.sky(pale, pale)
    c.place(0, 0, 1, c.uniform(0.5, 1.1))
    step = c.uniform(0.25, 0.42)
    _bands(c, step, step * c.uniform(0.4, 0.55), strong, c.uniform(0, 1))


def _dots(c: Canvas) -> None:
    pale, strong = _pair(c, 0.95)
    c.sky(strong, strong)
    _loose(c)
    for row in range(-7, 8):
        for column in range(-7, 8):
            c.disc(0.4 * column + 0.2 * (row % 2), 0.35 * row, 0.11, pale)


def _tartan(c: Canvas) -> None:
    _, strong = _pair(c, 0.36)
    c.sky(strong, strong)
    step, shift = c.uniform(0.55, 0.75), c.uniform(0, 1)
    base, width = c.image.copy(), 0.3 * step
    dark, bright, red = c.colour(0.62, 0.7, 0.25), c.colour(0.15, 0.6, 1.0), c.colour(0, 0.8, 0.85)
    layers = []
    for turn in (0, math.pi / 2):
        c.image.paste(base)
        c.place(0, 0, 1, turn)
        _bands(c, step, width, dark, shift)
        _bands(c, step, 0.1 * width, bright, shift + 0.3)
        _bands(c, step, 0.25 * width, red, shift + 0.5)
        layers.append(c.image.copy())
    c.image.paste(Image.blend(layers[0], layers[1], 0.5))  # warp and weft show equally


def _bricks(c: Canvas) -> None:
    mortar = c.colour(0.08, 0.08, 0.82)
    c.sky(mortar, mortar)
    _loose(c, 0.08)
    for row in range(-8, 9):
        for column in range(-5, 6):
            x, y = 0.56 * column + 0.28 * (row % 2), 0.25 * row
            brick = [(x, y), (x + 0.51, y), (x + 0.51, y + 0.2), (x, y + 0.2)]
            c.polygon(brick, c.colour(0.025, 0.62, 0.66, 1.3))


def _hexagons(c: Canvas) -> None:
    pale, _ = _pair(c, 0.11)
    c.sky(pale, pale)
    _loose(c)
    angles = np.arange(6) * math.pi / 3 + math.pi / 6
    for row in range(-8, 9):
        for column in range(-6, 7):
            x, y = 0.42 * column + 0.21 * (row % 2), 0.364 * row
            outline = np.stack([x + 0.215 * np.cos(angles), y + 0.215 * np.sin(angles)], 1)
            c.polygon(outline, c.colour(0.115, 0.82, 0.93, 1.6))


def _checks(c: Canvas) -> None:
    pale, strong = _pair(c, 0.5)
    c.sky(pale, pale)
    _loose(c)
    for row in range(-8, 9):
        for column in range(-8, 9):
            if (row + column) % 2:
                x, y = 0.32 * column, 0.32 * row
                c.polygon([(x, y), (x + 0.32, y), (x + 0.32, y + 0.32), (x, y + 0.32)], strong)


def _rings(c: Canvas) -> None:
    pale, strong = _pair(c, 0.75)
    c.sky(pale, pale)
    c.place(c.uniform(-0.35, 0.35), c.uniform(-0.35, 0.35))
    step = c.uniform(0.15, 0.22)
    for k in range(14, 0, -1):
        c.disc(0, 0, step * k, strong if k % 2 else pale)


def _ripples(c: Canvas) -> None:
    pale, strong = _pair(c, 0.52)
    c.sky(strong, strong)
    c.place(0, 0, 1, c.uniform(-0.25, 0.25))
    x = np.linspace(-1.6, 1.6, 80)
    pace, height, phase = c.uniform(5, 8), c.uniform(0.06, 0.11), c.uniform(0, 6)
    for y in np.arange(-1.7, 1.7, c.uniform(0.22, 0.3)):
        c.line(np.stack([x, y + height * np.sin(pace * x + phase)], 1), 0.1, pale)


def _spiral(c: Canvas) -> None:
    pale, strong = _pair(c, 0.87)
    c.sky(pale, pale)
    c.place(c.uniform(-0.3, 0.3), c.uniform(-0.3, 0.3))
    angle = np.linspace(0, 2 * math.pi * 9, 700)
    radius, start = c.uniform(0.036, 0.048) * angle, c.uniform(0, 6)
    turned = (1 if c.rng.random() < 0.5 else -1) * angle + start
    c.line(np.stack([radius * np.cos(turned), radius * np.sin(turned)], 1), 0.12, strong)


PLACES: dict[str, dict[str, dict[str, Painter]]] = {
    "scenes": {
        "sea": {"lighthouse": _lighthouse, "sailboat": _sailboat, "sunset": _sunset},
        "mountains": {"dunes": _dunes, "peaks": _peaks, "volcano": _volcano},
        "skies": {"balloon": _balloon, "night": _night, "rainbow": _rainbow},
    },
    "patterns": {
        "fabric": {"dots": _dots, "stripes": _stripes, "tartan": _tartan},
        "tiles": {"bricks": _bricks, "checks": _checks, "hexagons": _hexagons},
        "curves": {"rings": _rings, "ripples": _ripples, "spiral": _spiral},
    },
}
"""Painters by kingdom, family and species."""
