"""The parts by themselves: copies, comparisons, hashes, thresholds, groups and times."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from hyperpq import scan
from hyperpq.datasets.augment import view_rng
from hyperpq.duplicates import KINDS, Rate, make_copy
from hyperpq.duplicates.calibration import same_threshold, similar_threshold
from hyperpq.duplicates.compare import Comparison, compare
from hyperpq.duplicates.copies import make_other_shot
from hyperpq.duplicates.evidence import Evidence, sharpness
from hyperpq.duplicates.groups import group
from hyperpq.duplicates.hashes import (
    bits_apart,
    mirrored_hash,
    nearest_hashes,
    perceptual_hash,
)
from hyperpq.duplicates.taken import are_other_times, time_taken


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_the_same_for_the_same_seed(textured, kind):
    before = textured.tobytes()
    first, second, other = (
        make_copy(kind, textured, view_rng(seed, b"x", 0)).tobytes() for seed in (1, 1, 2)
    )
    assert first == second != other
    assert first != before
    assert textured.tobytes() == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (40, 30)])
def test_copies_of_tiny_images(kind, size):
    image = Image.new("RGB", size, "red")
    copy = make_copy(kind, image, view_rng(0, b"x", 0))
    assert copy.mode == "RGB"
    assert compare(Evidence.of(image), Evidence.of(copy)).agreement == 0


@pytest.mark.parametrize("kind", KINDS)
def test_copies_agree_either_way_round(textured, kind):
    own, copy = (
        Evidence.of(image) for image in (textured, make_copy(kind, textured, view_rng(3, b"x", 0)))
    )
    for found in (compare(own, copy), compare(copy, own)):
        assert found.agreement > 0.85
        assert found.overlap > 0.85
        assert found.mirrored == (kind == "mirrored")


def test_other_shots_agree_less_and_match(textured):
    own = Evidence.of(textured)
    shots = [make_other_shot(textured, view_rng(0, b"x", number)) for number in range(6)]
    found = [compare(own, Evidence.of(shot)) for shot in shots]
    assert np.median([one.agreement for one in found]) < 0.85
    assert min(one.inliers for one in found) > 20


def test_one_watermark_on_two_plain_images_does_not_make_them_the_same():
    from PIL import ImageDraw

    ramp = np.linspace(60, 200, 192).astype(np.uint8)
    plain = np.broadcast_to(ramp, (192, 192))
    evidence = []
    for grey in (plain, plain.T):
        image = Image.fromarray(np.ascontiguousarray(np.stack([grey] * 3, axis=2)))
        ImageDraw.Draw(image).text((30, 80), "www.example.org", "white", font_size=18)
        evidence.append(Evidence.of(image))
    assert compare(evidence[0], evidence[0]).agreement == 1
    assert compare(*evidence).agreement == 0


def test_other_images_do_not_agree(textured, originals):
    own = Evidence.of(textured)
    for other in originals:
        assert compare(own, Evidence.of(other)).agreement < 0.3


def test_a_part_that_moved_lowers_the_agreement(textured):
    changed = textured.copy()
    changed.paste(textured.crop((20, 20, 90, 90)), (100, 100))
    found = compare(Evidence.of(textured), Evidence.of(changed))
    share = 70 * 70 / 192**2
    assert 1 - 2.2 * share < found.agreement < 1 - 0.8 * share


def test_hashes_of_copies_are_near(textured, originals):
    own = perceptual_hash(textured)
    file = io.BytesIO()
    textured.resize((120, 120)).save(file, "JPEG", quality=50)
    assert bits_apart(own, perceptual_hash(Image.open(file))) <= 4
    flipped = textured.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert bits_apart(perceptual_hash(flipped), mirrored_hash(textured)) == 0
    assert min(bits_apart(own, perceptual_hash(other)) for other in originals) > 10


def test_the_search_of_hashes_counts_bits():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (300, 8), dtype=np.uint8)
    D, I = nearest_hashes(hashes[:20], scan.prepare(hashes), 5)  # noqa: E741
    apart = np.unpackbits(hashes[:20, None] ^ hashes, axis=2).sum(axis=2)
    assert (np.sort(apart, axis=1)[:, :5] == D).all()
    assert (I[:, 0] == np.arange(20)).all()


def test_blurred_images_are_less_sharp(textured):
    assert sharpness(textured.resize((48, 48)).resize((192, 192))) < sharpness(textured)


def test_the_threshold_separates_copies_from_shots():
    assert 0.9 < same_threshold(np.array([0.95, 0.99]), np.array([0.3, 0.9])) <= 0.95
    # One shot that is like a copy costs less than half of the copies.
    assert same_threshold(np.array([0.88, 0.99]), np.array([0.3] * 9 + [0.9])) <= 0.88
    # Without a measurement, or with one of little use, it is strict.
    assert 0.85 <= same_threshold(np.empty(0), np.empty(0)) <= 0.97
    assert 0.85 <= same_threshold(np.array([0.1]), np.array([0.05])) <= 0.97


def test_similar_shots_have_more_in_common_than_other_images():
    assert similar_threshold(np.array([0, 3, 19])) == 20
    assert similar_threshold(np.empty(0, np.int64)) == 12


@pytest.mark.parametrize(
    ("count", "of", "upper"),
    [(0, 100, 0.0295), (1, 100, 0.0466), (5, 5, 1.0), (0, 0, 1.0)],
)
def test_upper_limits_are_those_of_clopper_and_pearson(count, of, upper):
    assert Rate(count, of).upper == pytest.approx(upper, abs=1e-4)


def test_a_chain_is_not_one_group():
    edges = {(0, 1): Comparison(), (1, 2): Comparison(), (2, 3): Comparison()}
    assert group([0, 1, 2, 3], edges) == [[0, 1], [2, 3]]
    assert group([1, 0, 2, 3], edges) == [[1, 0, 2]]
    assert group([3, 2, 1, 0], edges) == [[3, 2], [1, 0]]


def test_images_that_are_connected_through_others_are_compared():
    edges = {(0, 1): Comparison(), (1, 2): Comparison(), (5, 6): Comparison()}
    asked = []

    def complete(row, others):
        asked.append((row, list(others)))
        return {2: Comparison()} if row == 0 else {}

    assert group([0, 1, 2, 5, 6], edges, complete) == [[0, 1, 2], [5, 6]]
    assert asked == [(0, [2])]


def test_times_of_photos(tmp_path, textured):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:05:01 10:20:30"
    textured.save(tmp_path / "a.jpg", exif=exif)
    exif.get_ifd(0x8769)[0x9291] = "25"
    textured.save(tmp_path / "b.jpg", exif=exif)
    textured.save(tmp_path / "c.png", exif=exif)
    (tmp_path / "d.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:60])
    exif.get_ifd(0x8769)[0x9003] = "0000:00:00 00:00:00"
    textured.save(tmp_path / "e.jpg", exif=exif)
    found = [
        time_taken(str(tmp_path / name).encode())
        for name in ("a.jpg", "b.jpg", "c.png", "d.jpg", "e.jpg", "none")
    ]
    assert found == ["2024-05-01 10:20:30", "2024-05-01 10:20:30.25", None, None, None, None]


def test_times_differ_as_far_as_both_are_exact():
    second = "2024-05-01 10:20:30"
    assert are_other_times(second, "2024-05-01 10:20:31.5")
    assert are_other_times(f"{second}.2", f"{second}.3")
    assert not are_other_times(second, f"{second}.3")
    assert not are_other_times(None, second)
