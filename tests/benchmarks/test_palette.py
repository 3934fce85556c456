"""Every method has one colour of its own, in every figure."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks import palette, trees
from benchmarks.baselines import BASELINES
from benchmarks.learned_baselines import LEARNED
from benchmarks.quality_recipes import RECIPES, variants
from benchmarks.scan import EVERY_BYTE, FAST_SCAN, INDEX_PQ, IVF_FAST_SCAN
from hyperpq.errors import InvalidInputError

SVG = "{http://www.w3.org/2000/svg}"


def test_whatever_a_figure_shows_has_a_style():
    levels = ("avx512vbmi", "avx512bw", "avx2", "neon", "portable")
    spaces = [space.name for space in trees.SPACES]
    recipes = [f"hyperpq {variant}" for name in RECIPES for variant in variants(name)]
    indexes = [INDEX_PQ, FAST_SCAN, IVF_FAST_SCAN]
    shown = [*BASELINES, *LEARNED, *recipes, *levels, *indexes, EVERY_BYTE, *spaces]
    assert set(shown) <= set(palette.STYLES)
    with pytest.raises(InvalidInputError, match="'zip' has no colour"):
        palette.style_of("zip")


def test_no_two_methods_of_a_figure_look_the_same():
    methods = [*BASELINES, *LEARNED, *(f"hyperpq {name}" for name in RECIPES)]
    assert len({palette.style_of(name).colour for name in methods}) == len(methods)
    assert len({palette.style_of(name).marker for name in methods}) == len(methods)
    # Refined codes have the colour of the codes, and another line.
    for name in ("hyperpq default", "hyperpq balanced"):
        alone, refined = (palette.style_of(name + end) for end in ("", ", refined"))
        assert alone._replace(dash=refined.dash) == refined != alone
    assert palette.style_of(INDEX_PQ).colour == palette.style_of("pq").colour


def test_a_figure_is_the_same_file_each_time_and_has_error_bars(tmp_path):
    for name in ("a", "b"):
        figure, axes = palette.new_figure(2)
        for axis in axes:
            palette.draw_line(axis, "pq", [0, 1], [0.2, 0.4], [0.1, float("nan")])
            palette.draw_level(axis, "exact raw", 0.5)
        palette.add_legend(figure, axes)
        palette.save(figure, tmp_path / f"new/{name}.svg")
    text = (tmp_path / "new/a.svg").read_text("utf-8")
    assert text == (tmp_path / "new/b.svg").read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert 380 < float(root.get("width").removesuffix("pt")) < 440
    # Error bars in two panels and in the legend, which names each method once.
    assert text.count("LineCollection_") == 3
    assert text.count("<!-- exact raw -->") == text.count("<!-- pq -->") == 1


def test_a_grid_names_each_line_once_in_its_corner_and_levels_last(tmp_path):
    figure, axes, corner = palette.new_grid(5)
    assert len(axes) == 5 and corner not in axes
    for axis in axes:
        palette.draw_level(axis, "exact raw", 0.5)
        palette.draw_line(axis, "pq", [0, 1], [0.2, 0.4])
    palette.name_lines(corner, axes)
    assert [text.get_text() for text in corner.get_legend().get_texts()] == ["pq", "exact raw"]
    palette.save(figure, tmp_path / "grid.svg")
    root = ElementTree.parse(tmp_path / "grid.svg").getroot()
    assert 380 < float(root.get("width").removesuffix("pt")) < 440
