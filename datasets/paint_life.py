"""Painters of the animals and plants of the drawn data set.

A painter draws one random image of its species on a canvas. Coordinates run from -1 to 1, with y
upwards; after `Canvas.place` they are relative to the subject.
"""

from __future__ import annotations

import math

import numpy as np

from hyperpq.datasets.canvas import BLACK, INK, WHITE, Canvas, Colour, Painter, arc


def _eye(c: Canvas, x: float, y: float, radius: float) -> None:
    c.disc(x, y, radius, WHITE)
    c.disc(x + 0.2 * radius, y, 0.6 * radius, BLACK)
    c.disc(x + 0.4 * radius, y + 0.25 * radius, 0.2 * radius, WHITE)


def _water(c: Canvas) -> None:
    c.sky(c.colour(0.52, 0.55, 0.88), c.colour(0.6, 0.8, 0.5))
    c.ground(c.uniform(-0.85, -0.7), c.colour(0.12, 0.4, 0.8))
    for x, y in c.scatter(3, -1, -0.8):
        blades = np.linspace(0, 1, 12)
        wave = 0.07 * np.sin(9 * blades + c.uniform(0, 6))
        c.line(np.stack([x + wave, y + c.uniform(0.4, 0.9) * blades], 1), 0.06, (40, 130, 90))
    for x, y in c.scatter(5, -0.3, 0.9):
        c.disc(x, y, c.uniform(0.025, 0.06), c.colour(0.52, 0.25, 0.97))


def _clownfish(c: Canvas) -> None:
    _water(c)
    c.subject(0.6, 0.85)
    orange = c.colour(0.06, 0.9, 0.97)
    c.polygon([(-0.7, 0), (-1.1, 0.38), (-1.0, 0), (-1.1, -0.38)], orange)
    c.polygon([(-0.4, 0.35), (0.1, 0.68), (0.4, 0.3)], orange)
    c.polygon([(-0.2, -0.35), (-0.1, -0.62), (0.3, -0.3)], orange)
    c.ellipse(0, 0, 0.85, 0.45, orange)
    for x, width in ((-0.52, 0.08), (-0.05, 0.11), (0.42, 0.1)):
        height = 0.45 * math.sqrt(1 - (x / 0.85) ** 2)
        c.ellipse(x, 0, width + 0.035, height, BLACK)
        c.ellipse(x, 0, width, 0.98 * height, WHITE)
    _eye(c, 0.63, 0.1, 0.085)


def _angelfish(c: Canvas) -> None:
    _water(c)
    c.subject(0.55, 0.8, 0.12)
    yellow = c.colour(0.14, 0.7, 0.98)
    for sign in (1, -1):
        c.polygon([(0.3, sign * 0.45), (-0.55, sign * 1.05), (-0.3, sign * 0.3)], yellow)
    c.polygon([(-0.5, 0), (-0.95, 0.3), (-0.85, 0), (-0.95, -0.3)], yellow)
    c.polygon([(0.8, 0.02), (0.1, 0.66), (-0.6, 0), (0.1, -0.66)], yellow)
    c.ellipse(0.05, 0, 0.6, 0.55, yellow)
    for x in (-0.28, 0.05, 0.36):
        height = 0.53 * math.sqrt(1 - ((x - 0.05) / 0.6) ** 2)
        c.ellipse(x, 0, 0.055, height, INK)
    _eye(c, 0.53, 0.1, 0.08)


def _pufferfish(c: Canvas) -> None:
    _water(c)
    c.subject(0.55, 0.78)
    back, belly = c.colour(0.13, 0.45, 0.72), c.colour(0.12, 0.12, 0.97)
    for angle in np.linspace(0, 2 * math.pi, 22, endpoint=False):
        tip = (0.82 * math.cos(angle), 0.82 * math.sin(angle))
        sides = [(0.6 * math.cos(angle + d), 0.6 * math.sin(angle + d)) for d in (-0.1, 0.1)]
        c.polygon([tip, *sides], back if angle < math.pi else belly)
    c.polygon([(-0.5, 0), (-0.98, 0.25), (-0.98, -0.25)], back)
    c.disc(0, 0, 0.64, belly)
    c.polygon(arc(0, 0, 0.64, 0.64, 0, 0.5), back)
    for x, y in ((-0.3, 0.25), (0, 0.42), (-0.08, 0.15), (0.2, 0.22), (-0.42, 0.08)):
        c.disc(x, y, 0.055, c.colour(0.09, 0.6, 0.4))
    _eye(c, 0.38, 0.16, 0.13)
    c.ellipse(0.6, -0.1, 0.07, 0.05, c.colour(0.02, 0.5, 0.75))


def _owl(c: Canvas) -> None:
    c.sky(c.colour(0.66, 0.55, 0.38), c.colour(0.75, 0.35, 0.62))
    c.subject(0.6, 0.8, 0.06)
    c.line([(-3, -0.78), (3, -0.72)], 0.14, c.colour(0.07, 0.5, 0.3))
    brown, pale = c.colour(0.07, 0.55, 0.5), c.colour(0.09, 0.35, 0.82)
    for sign in (1, -1):
        c.polygon([(sign * 0.5, 0.5), (sign * 0.5, 1.0), (sign * 0.1, 0.72)], brown)
    c.ellipse(0, 0, 0.6, 0.82, brown)
    c.ellipse(0, -0.25, 0.38, 0.5, pale)
    for row in range(3):
        for x in (-0.2, 0.0, 0.2):
            c.ellipse(x, -0.1 - 0.16 * row, 0.05, 0.06, brown)
    for sign in (1, -1):
        c.ellipse(sign * 0.55, -0.15, 0.15, 0.5, c.colour(0.06, 0.6, 0.38), sign * 0.15)
        c.disc(sign * 0.25, 0.36, 0.25, pale)
        c.disc(sign * 0.25, 0.36, 0.18, c.colour(0.14, 0.8, 0.98))
        c.disc(sign * 0.25, 0.36, 0.1, BLACK)
        c.ellipse(sign * 0.18, -0.8, 0.1, 0.07, (230, 160, 50))
    c.polygon([(-0.08, 0.26), (0.08, 0.26), (0, 0.08)], (235, 165, 50))


def _penguin(c: Canvas) -> None:
    c.sky(c.colour(0.55, 0.35, 0.9), c.colour(0.55, 0.15, 1.0))
    c.ground(c.uniform(-0.25, 0.0), c.colour(0.54, 0.06, 0.98))
    c.subject(0.6, 0.8, 0.08)
    coat = c.colour(0.62, 0.35, 0.2)
    for sign in (1, -1):
        c.ellipse(sign * 0.5, -0.05, 0.13, 0.45, coat, sign * 0.3)
        c.ellipse(sign * 0.22, -0.85, 0.2, 0.08, (240, 150, 40))
    c.ellipse(0, -0.2, 0.52, 0.65, coat)
    c.disc(0, 0.5, 0.37, coat)
    c.ellipse(0, -0.28, 0.37, 0.52, WHITE)
    for sign in (1, -1):
        c.ellipse(sign * 0.15, 0.46, 0.17, 0.2, WHITE)
        c.disc(sign * 0.14, 0.54, 0.055, BLACK)
    c.polygon([(-0.1, 0.44), (0.1, 0.44), (0, 0.26)], (240, 150, 40))


def _chick(c: Canvas) -> None:
    c.sky(c.colour(0.54, 0.3, 0.97), c.colour(0.52, 0.15, 0.98))
    c.ground(c.uniform(-0.25, 0.0), c.colour(0.27, 0.6, 0.7))
    c.subject(0.6, 0.8, 0.1)
    yellow, dark = c.colour(0.14, 0.72, 0.98), c.colour(0.12, 0.85, 0.9)
    for x in (-0.15, 0.15):
        c.line([(x, -0.5), (x, -0.9), (x + 0.15, -0.92)], 0.06, (235, 140, 40))
    c.ellipse(-0.08, -0.18, 0.66, 0.5, yellow)
    c.polygon([(-0.6, 0.0), (-0.95, 0.2), (-0.65, -0.3)], yellow)
    c.disc(0.36, 0.38, 0.38, yellow)
    c.ellipse(-0.2, -0.18, 0.32, 0.22, dark, 0.3)
    c.polygon([(0.7, 0.46), (0.98, 0.36), (0.7, 0.26)], (240, 135, 40))
    c.disc(0.48, 0.47, 0.07, BLACK)
    c.disc(0.5, 0.49, 0.025, WHITE)


def _leaf(c: Canvas) -> None:
    c.sky(c.colour(0.3, 0.55, 0.62), c.colour(0.33, 0.6, 0.5))
    c.place(0, 0, 1, c.uniform(-0.6, 0.6))
    vein = c.colour(0.29, 0.4, 0.72)
    c.line([(-2, 0), (2, 0)], 0.05, vein)
    for x in np.linspace(-1.8, 1.4, 8):
        c.line([(x, 0), (x + 0.8, 1.4)], 0.025, vein)
        c.line([(x, 0), (x + 0.8, -1.4)], 0.025, vein)


def _ladybird(c: Canvas) -> None:
    _leaf(c)
    c.subject(0.5, 0.75, 3)
    for y in (0.35, 0, -0.35):
        c.line([(-0.78, y + 0.15), (0, y), (0.78, y + 0.15)], 0.06, BLACK)
    for sign in (1, -1):
        c.line([(0, 0.7), (sign * 0.3, 1.02)], 0.04, BLACK)
    c.ellipse(0, 0.6, 0.38, 0.28, BLACK)
    c.ellipse(0, -0.05, 0.64, 0.68, c.colour(0.99, 0.85, 0.86))
    c.line([(0, 0.62), (0, -0.72)], 0.04, BLACK)
    for sign in (1, -1):
        c.disc(sign * 0.16, 0.68, 0.07, WHITE)
        for x, y in ((0.3, 0.25), (0.36, -0.18), (0.18, -0.46)):
            c.disc(sign * x, y, 0.11, BLACK)


def _bee(c: Canvas) -> None:
    _leaf(c)
    c.subject(0.55, 0.78, 0.5)
    c.ellipse(-0.1, 0.5, 0.2, 0.5, c.colour(0.55, 0.15, 0.98), 0.35)
    c.ellipse(0.2, 0.5, 0.2, 0.48, c.colour(0.55, 0.1, 0.98), -0.25)
    c.polygon([(-0.7, 0.08), (-0.98, 0), (-0.7, -0.08)], BLACK)
    c.ellipse(0, 0, 0.76, 0.42, c.colour(0.13, 0.85, 0.98))
    for x in (-0.5, -0.2, 0.12):
        c.ellipse(x, 0, 0.08, 0.41 * math.sqrt(1 - (x / 0.76) ** 2), INK)
    c.disc(0.62, 0.04, 0.3, INK)
    for dx in (0.05, 0.22):
        c.line([(0.65, 0.25), (0.75 + dx, 0.58)], 0.04, INK)
    _eye(c, 0.7, 0.1, 0.1)


def _butterfly(c: Canvas) -> None:
    _leaf(c)
    c.subject(0.6, 0.85, 0.5)
    wing, spot = c.colour(c.uniform(0.03, 0.1), 0.85, 0.97), c.colour(0.13, 0.25, 1.0)
    for sign in (1, -1):
        for x, y, rx, ry, turn in ((0.48, 0.35, 0.52, 0.34, 0.6), (0.4, -0.35, 0.4, 0.28, -0.7)):
            c.ellipse(sign * x, y, rx, ry, INK, sign * turn)
            c.ellipse(sign * x, y, rx - 0.08, ry - 0.08, wing, sign * turn)
            c.disc(sign * (x + 0.12), y * 1.25, 0.09, spot)
        c.line([(0, 0.4), (sign * 0.22, 0.85)], 0.035, INK)
    c.ellipse(0, 0, 0.08, 0.55, INK)


def _meadow(c: Canvas) -> None:
    c.sky(c.colour(0.56, 0.4, 0.95), c.colour(0.53, 0.15, 0.98))
    c.ground(c.uniform(-0.45, -0.15), c.colour(0.27, 0.55, 0.68))
    for x, y in c.scatter(26, -1, -0.45):
        c.line([(x, y), (x + c.uniform(-0.05, 0.05), y + 0.16)], 0.02, c.colour(0.3, 0.65, 0.5))


def _stem(c: Canvas, top: float) -> None:
    green = c.colour(0.31, 0.65, 0.5)
    bend = c.uniform(-0.12, 0.12)
    c.line([(0, top), (bend, -0.6), (0, -2.5)], 0.09, green)
    for sign in (1, -1):
        c.ellipse(bend + sign * 0.28, -0.75, 0.32, 0.11, green, sign * 0.6)


def _petals(c: Canvas, n: int, middle: float, length: float, width: float, colour: Colour) -> None:
    for angle in np.linspace(0, 2 * math.pi, n, endpoint=False) + c.uniform(0, 1):
        x, y = middle * math.cos(angle), middle * math.sin(angle)
        c.ellipse(x, y + 0.3, length, width, colour, angle)


def _daisy(c: Canvas) -> None:
    _meadow(c)
    c.subject(0.55, 0.78)
    _stem(c, 0.3)
    _petals(c, 13, 0.42, 0.26, 0.1, c.colour(0.9, 0.05, 0.97))
    c.disc(0, 0.3, 0.23, c.colour(0.13, 0.85, 0.96))


def _sunflower(c: Canvas) -> None:
    _meadow(c)
    c.subject(0.55, 0.78)
    _stem(c, 0.3)
    _petals(c, 16, 0.5, 0.26, 0.1, c.colour(0.11, 0.9, 0.93))
    _petals(c, 16, 0.46, 0.24, 0.09, c.colour(0.14, 0.88, 1.0))
    c.disc(0, 0.3, 0.38, c.colour(0.07, 0.7, 0.34))
    for k in range(40):  # seeds sit at the golden angle
        radius, angle = 0.055 * math.sqrt(k), 2.39996 * k
        x, y = radius * math.cos(angle), 0.3 + radius * math.sin(angle)
        c.disc(x, y, 0.02, c.colour(0.1, 0.6, 0.6))


def _tulip(c: Canvas) -> None:
    _meadow(c)
    c.subject(0.6, 0.8)
    _stem(c, 0)
    hue = c.uniform(0.9, 1.02)
    side, front = c.colour(hue, 0.75, 0.8), c.colour(hue, 0.65, 0.95)
    for sign in (1, -1):
        c.ellipse(sign * 0.24, 0.35, 0.22, 0.5, side, -sign * 0.12)
    c.ellipse(0, 0.3, 0.24, 0.48, front)
    c.polygon(arc(0, 0.1, 0.42, 0.32, 0.5, 1), side)
    c.ellipse(0, 0.18, 0.22, 0.38, front)


def _park(c: Canvas) -> None:
    c.sky(c.colour(0.57, 0.45, 0.95), c.colour(0.55, 0.12, 0.98))
    c.clouds(2)
    c.ground(c.uniform(-0.45, -0.35), c.colour(0.26, 0.5, 0.68))


def _fir(c: Canvas) -> None:
    _park(c)
    c.subject(0.65, 0.9, 0.03)
    c.polygon([(-0.1, -0.5), (0.1, -0.5), (0.1, -1), (-0.1, -1)], c.colour(0.07, 0.55, 0.36))
    for base, top, half in ((-0.72, 0.1, 0.62), (-0.3, 0.5, 0.5), (0.1, 0.95, 0.36)):
        c.polygon([(-half, base), (0, top), (half, base)], c.colour(0.4, 0.6, 0.4))


def _oak(c: Canvas) -> None:
    _park(c)
    c.subject(0.65, 0.9, 0.03)
    bark = c.colour(0.07, 0.5, 0.38)
    c.polygon([(-0.13, 0), (0.13, 0), (0.2, -1), (-0.2, -1)], bark)
    for sign in (1, -1):
        c.line([(0, -0.35), (sign * 0.4, 0.1)], 0.1, bark)
    for value in (0.5, 0.6):
        for angle in np.linspace(0, 2 * math.pi, 7, endpoint=False) + c.uniform(0, 1):
            x, y = 0.42 * math.cos(angle), 0.38 + 0.32 * math.sin(angle)
            c.disc(x - 0.3 * (value - 0.5), y + (value - 0.5), 0.3, c.colour(0.29, 0.6, value))
    c.disc(0, 0.45, 0.35, c.colour(0.28, 0.55, 0.64))


def _palm(c: Canvas) -> None:
    c.sky(c.colour(0.53, 0.5, 0.95), c.colour(0.5, 0.15, 0.98))
    c.ground(-0.15, c.colour(0.52, 0.65, 0.75), 0.0)
    c.ground(c.uniform(-0.45, -0.35), c.colour(0.12, 0.4, 0.92))
    c.subject(0.65, 0.9, 0.05)
    bend = c.uniform(0.15, 0.4)
    height = np.linspace(0, 1, 14)
    c.line(np.stack([bend * height**2, -1 + 1.4 * height], 1), 0.13, c.colour(0.08, 0.5, 0.5))
    for angle in (0.1, 0.65, 1.3, 1.85, 2.5, 3.05):
        length = np.linspace(0, 0.75, 9)
        x = bend + length * math.cos(angle)
        y = 0.4 + length * math.sin(angle) - 0.75 * length**2
        thick = 0.11 * np.sin(np.pi * np.linspace(0.15, 1, 9))
        outline = np.concatenate([np.stack([x, y + thick], 1), np.stack([x, y - thick], 1)[::-1]])
        c.polygon(outline, c.colour(0.33, 0.65, 0.52))
    for dx in (-0.08, 0.09):
        c.disc(bend + dx, 0.33, 0.08, c.colour(0.07, 0.6, 0.35))


def _table(c: Canvas) -> None:
    c.sky(c.colour(0.1, 0.2, 0.96), c.colour(0.09, 0.28, 0.9))
    c.ground(c.uniform(-0.15, 0.05), c.colour(0.07, 0.45, 0.68), 0.0)


def _stalk(c: Canvas, x: float, y: float) -> None:
    c.line([(x, y), (x + 0.08, y + 0.32)], 0.07, c.colour(0.07, 0.6, 0.33))
    c.ellipse(x + 0.3, y + 0.25, 0.24, 0.1, c.colour(0.3, 0.65, 0.6), 0.3)


def _apple(c: Canvas) -> None:
    _table(c)
    c.subject(0.55, 0.78)
    skin = c.colour(0.99, 0.8, 0.85)
    c.ellipse(0, -0.72, 0.62, 0.08, c.colour(0.07, 0.5, 0.5))
    for sign in (1, -1):
        c.ellipse(sign * 0.22, -0.08, 0.5, 0.64, skin)
    c.ellipse(0, 0.48, 0.18, 0.07, c.colour(0.99, 0.85, 0.6))
    c.ellipse(-0.35, 0.18, 0.1, 0.2, c.colour(0.99, 0.35, 1.0), -0.3)
    _stalk(c, 0, 0.46)


def _pear(c: Canvas) -> None:
    _table(c)
    c.subject(0.55, 0.78)
    skin = c.colour(0.19, 0.65, 0.85)
    c.ellipse(0, -0.72, 0.55, 0.08, c.colour(0.07, 0.5, 0.5))
    c.ellipse(0, -0.28, 0.55, 0.48, skin)
    c.ellipse(0, 0.2, 0.33, 0.46, skin)
    c.polygon([(-0.32, 0.15), (0.32, 0.15), (0.52, -0.2), (-0.52, -0.2)], skin)
    c.ellipse(-0.25, -0.15, 0.08, 0.22, c.colour(0.17, 0.3, 0.98), -0.25)
    _stalk(c, 0, 0.6)


def _cherries(c: Canvas) -> None:
    _table(c)
    c.subject(0.6, 0.8)
    top = (c.uniform(-0.1, 0.1), 0.85)
    green = c.colour(0.28, 0.6, 0.45)
    c.ellipse(top[0] + 0.25, top[1] - 0.04, 0.3, 0.13, c.colour(0.31, 0.65, 0.58), 0.2)
    for sign in (1, -1):
        skin = c.colour(0.97, 0.88, 0.68)
        x, y = sign * 0.42, -0.35 + sign * 0.06
        c.ellipse(x, y - 0.34, 0.33, 0.07, c.colour(0.07, 0.5, 0.5))
        c.line([top, (0.7 * x, 0.3), (x, y + 0.25)], 0.05, green)
        c.disc(x, y, 0.36, skin)
        c.disc(x - 0.13, y + 0.14, 0.08, c.colour(0.97, 0.3, 1.0))


LIFE: dict[str, dict[str, dict[str, Painter]]] = {
    "creatures": {
        "fish": {"angelfish": _angelfish, "clownfish": _clownfish, "pufferfish": _pufferfish},
        "birds": {"chick": _chick, "owl": _owl, "penguin": _penguin},
        "insects": {"bee": _bee, "butterfly": _butterfly, "ladybird": _ladybird},
    },
    "plants": {
        "flowers": {"daisy": _daisy, "sunflower": _sunflower, "tulip": _tulip},
        "trees": {"fir": _fir, "oak": _oak, "palm": _palm},
        "fruit": {"apple": _apple, "cherries": _cherries, "pear": _pear},
    },
}
"""Painters by kingdom, family and species."""
