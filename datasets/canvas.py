"""`Canvas`: simple shapes with random positions and colours, for the drawn data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]
Painter = Callable[["Canvas"], None]

WHITE, BLACK, INK = (250, 250, 246), (18, 18, 22), (42, 38, 46)


class Canvas:
    """A square image to draw on, with its own random number generator.

    Parameters
    ----------
    side : int
        Length of a side in pixels.
    rng : numpy.random.Generator
        Source of all random variation.
    """

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        self.side, self.rng = side, rng
        self.image = Image.new("RGB", (side, side))
        self._draw = ImageDraw.Draw(self.image)
        self.place()

    def place(self, x: float = 0, y: float = 0, unit: float = 1, turn: float = 0) -> None:
        """Move the origin to (x, y) of the whole square, scale by ``unit``, rotate by ``turn``.

        The square extends from -1 to 1 in both directions; ``turn`` is in radians.
        """
        self.unit = unit
        self._origin = np.array([x, y])
        self._axes = unit * np.array(
            [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
        )

    def subject(self, low: float = 0.5, high: float = 0.72, turn: float = 0.2) -> None:
        """Place the subject at random near the centre, with a random size; half are mirrored."""
        x, y = self.rng.uniform(-0.22, 0.22, 2)
        self.place(x, y, self.uniform(low, high), self.uniform(-turn, turn))
        if self.rng.random() < 0.5:
            self._axes[0] *= -1

    def uniform(self, low: float, high: float) -> float:
        """A random number between ``low`` and ``high``."""
        return float(self.rng.uniform(low, high))

    def colour(self, hue: float, saturation: float, value: float, vary: float = 1.0) -> Colour:
        """A random colour near the given one; hue in whole turns, the others from 0 to 1."""
        change = vary * self.rng.uniform(-1, 1, 3) * (0.02, 0.08, 0.07)
        h, s, v = np.array([hue, saturation, value]) + change
        h6 = (h % 1.0) * 6 + np.array([0, 4, 2])
        s, v = min(max(s, 0), 1), min(max(v, 0), 1)
        red, green, blue = v * (1 - s + s * np.clip(np.abs(h6 % 6 - 3) - 1, 0, 1)) * 255
        return round(red), round(green), round(blue)

    def sky(self, top: Colour, bottom: Colour) -> None:
        """Fill the square with a gradient from the colour ``top`` to the colour ``bottom``."""
        fraction = np.linspace(0, 1, self.side)[:, None, None]
        rows = (1 - fraction) * np.array(top) + fraction * np.array(bottom)
        rows = np.broadcast_to(rows, (self.side, self.side, 3))
        self.image.paste(Image.fromarray(np.round(rows).astype(np.uint8)))

    def polygon(self, points: Points | np.ndarray, colour: Colour) -> None:
        """Draw a filled polygon."""
        self._draw.polygon(self._pixels(points), fill=colour)

    def line(self, points: Points | np.ndarray, width: float, colour: Colour) -> None:
        """Draw a line through points."""
        pixels = max(1, round(width * self.unit * self.side / 2))
        self._draw.line(self._pixels(points), fill=colour, width=pixels, joint="curve")

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, turn: float = 0
    ) -> None:
        """Draw a filled ellipse, rotated about its centre by ``turn`` radians."""
        self.polygon(arc(x, y, rx, ry, turn=turn), colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Draw a filled circle."""
        self.ellipse(x, y, radius, radius, colour)

    def ground(self, height: float, colour: Colour, swing: float = 0.05) -> None:
        """Fill everything below a wavy line, in the coordinates of the whole square."""
        self.place()
        x = np.linspace(-1, 1, 40)
        phase, pace = self.rng.uniform(0, 6.3), self.rng.uniform(1.5, 4)
        y = height + swing * np.sin(phase + pace * x)
        line = list(zip(x.tolist(), y.tolist(), strict=True))
        self.polygon([(-1, -1), *line, (1, -1)], colour)

    def clouds(self, n: int, low: float = 0.3) -> None:
        """Draw clouds above the height ``low`` of the whole square."""
        for x, y in self.scatter(n, low, 0.9):
            self.place(x, y, self.uniform(0.12, 0.2))
            for dx, dy, radius in ((-1, 0, 0.6), (0, 0.25, 0.9), (0.95, 0, 0.65), (0.1, -0.2, 0.6)):
                self.disc(dx, dy, radius, WHITE)
        self.place()

    def scatter(self, n: int, low: float, high: float) -> list[tuple[float, float]]:
        """Random points between two heights of the whole square, from back to front."""
        x, y = self.rng.uniform(-1, 1, n), np.sort(self.rng.uniform(low, high, n))[::-1]
        return list(zip(x.tolist(), y.tolist(), strict=True))

    def _pixels(self, points: Points | np.ndarray) -> list[tuple[float, float]]:
        placed = np.asarray(points, float) @ self._axes + self._origin
        pixels = (placed * (1, -1) + 1) * (self.side / 2)
        return [(x, y) for x, y in pixels.tolist()]


def arc(
    x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 1, turn: float = 0
) -> np.ndarray:
    """Points of an ellipse from ``start`` to ``stop``, in whole turns from its rightmost point."""
    angle = 2 * math.pi * np.linspace(start, stop, 48)
    a, b = rx * np.cos(angle), ry * np.sin(angle)
    c, s = math.cos(turn), math.sin(turn)
    return np.stack([x + a * c - b * s, y + a * s + b * c], 1)
