"""Views made as tensors, against the views that Pillow makes."""

import numpy as np
import pytest
import torch
from PIL import Image

from hyperpq.datasets import augment
from hyperpq.datasets.augment import MILD, PAPER, Augmentation
from hyperpq.datasets.device_resize import resize_boxes, resize_squares
from hyperpq.datasets.device_views import (
    TUNING,
    DeviceViews,
    ViewChoices,
    apply_choices,
    rotate_hue,
    uniform,
)

PLAIN = Augmentation((1.0, 1.0), 0.0, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0, 0.0, ratio=(1.0, 1.0))


def squares(n, side=48, seed=0):
    """Smooth images with some noise in them."""
    rng = np.random.default_rng(seed)
    coarse = [Image.fromarray(a) for a in rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)]
    smooth = np.stack(
        [np.asarray(a.resize((side, side), Image.Resampling.BICUBIC)) for a in coarse]
    )
    noise = rng.integers(-12, 13, smooth.shape)
    return np.clip(smooth.astype(int) + noise, 0, 255).astype(np.uint8)


def choices(n=1, side=48, **changes):
    """Choices that change nothing but what is given."""
    one, no = np.ones(n, np.float32), np.zeros(n, bool)
    values = {
        "boxes": np.tile(np.array([0, 0, side, side], np.float32), (n, 1)),
        "flip": no,
        "grey": no,
        "brightness": one,
        "contrast": one,
        "saturation": one,
        "hue": 0 * one,
        "sigma": 0 * one,
    }
    given = {key: np.asarray(value, values[key].dtype) for key, value in changes.items()}
    return ViewChoices(**{**values, **given})


def as_pixels(x):
    return x.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("box", "size"),
    [((0, 0, 48, 31), 20), ((3, 5, 31, 25), 48), ((7, 9, 30.5, 20), 96), ((2, 2, 3, 3), 32)],
)
def test_a_crop_is_that_of_pillow(box, size, interpolation):
    image = np.ascontiguousarray(squares(1)[:, :31])
    boxes = torch.tensor([box]).float()
    got = resize_boxes(torch.from_numpy(image), boxes, size, interpolation=interpolation)
    left, top, width, height = box
    wanted = Image.fromarray(image[0]).resize(
        (size, size),
        Image.Resampling[interpolation.upper()],
        box=(left, top, left + width, top + height),
    )
    off = np.abs(as_pixels(got)[0] - np.asarray(wanted))
    assert off.max() <= 1
    assert off.mean() < 0.01


def test_whole_squares_are_resized_as_for_a_search():
    image = squares(2)
    same = resize_squares(torch.from_numpy(image), 48)
    assert (as_pixels(same) == image).all()
    smaller = as_pixels(resize_squares(torch.from_numpy(image), 32))
    wanted = [Image.fromarray(a).resize((32, 32), Image.Resampling.BICUBIC) for a in image]
    assert np.abs(smaller - np.stack(wanted)).max() <= 1


def test_each_change_is_that_of_pillow():
    image = squares(1)
    pixels, source = torch.from_numpy(image), Image.fromarray(image[0])
    cases = [
        ({"flip": [True]}, source.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 0.01),
        ({"brightness": [1.3]}, augment.adjust_brightness(source, 1.3), 1.01),
        ({"brightness": [0.6]}, augment.adjust_brightness(source, 0.6), 1.01),
        ({"contrast": [1.4]}, augment.adjust_contrast(source, 1.4), 1.6),
        ({"contrast": [0.5]}, augment.adjust_contrast(source, 0.5), 1.6),
        ({"saturation": [1.4]}, augment.adjust_saturation(source, 1.4), 1.6),
        ({"saturation": [0.6]}, augment.adjust_saturation(source, 0.6), 1.6),
        ({"grey": [True]}, source.convert("L").convert("RGB"), 1.01),
    ]
    for change, wanted, tolerance in cases:
        got = as_pixels(apply_choices(pixels, choices(**change), 48))[0]
        assert np.abs(got - np.asarray(wanted)).max() <= tolerance, change


def test_hue_turns_as_in_pillow():
    """Pillow has 256 hues and as many saturations, so single pixels differ by some values."""
    image = squares(1)
    x = torch.from_numpy(image).permute(0, 3, 1, 2).float()
    for turn in (0.1, -0.05, 0.4):
        got = as_pixels(rotate_hue(x, torch.tensor([turn])))[0]
        wanted = np.asarray(augment.adjust_hue(Image.fromarray(image[0]), turn))
        assert np.abs(got - wanted).mean() < 1.5
    assert torch.allclose(rotate_hue(x, torch.zeros(1)), x, atol=1e-3)
    third = torch.tensor([255.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    assert rotate_hue(third, torch.tensor([1 / 3])).flatten().tolist() == pytest.approx([0, 255, 0])


def test_blur_keeps_the_mean_and_takes_detail():
    image = torch.from_numpy(squares(2))
    blurred = apply_choices(image, choices(2, sigma=[2.0, 0.0]), 48)
    plain = apply_choices(image, choices(2), 48)
    assert torch.equal(blurred[1], plain[1])
    assert abs(float(blurred[0].mean() - plain[0].mean())) < 2
    assert blurred[0].diff(dim=2).std() < 0.6 * plain[0].diff(dim=2).std()


def test_a_view_depends_on_seed_row_and_number_alone():
    image = torch.from_numpy(squares(6))
    views = DeviceViews(PAPER, 32, seed=3)
    rows = np.array([4, 0, 9, 1, 7, 2])
    every = views(image, rows, 5)
    assert torch.allclose(views(image[[2]], rows[[2]], 5), every[[2]], atol=1e-3)
    assert torch.equal(views(image, rows, 5), every)
    for other in (views(image, rows, 6), DeviceViews(PAPER, 32, seed=4)(image, rows, 5)):
        assert ((other - every).abs().mean((1, 2, 3)) > 1).all()
    assert every.shape == (6, 3, 32, 32)
    assert every.min() >= 0
    assert every.max() <= 255


def test_random_numbers_are_uniform_and_fixed():
    u = uniform(0, np.arange(4000), 0, 6)
    assert np.abs(u.mean(0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(u.T) - np.eye(6)).max() < 0.06
    neighbours = np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]
    assert abs(neighbours) < 0.06
    # A change of these numbers changes every tuned network.
    assert uniform(1, np.array([2]), 3, 2)[0].tolist() == FIXED


FIXED = [0.40875386579864126, 0.761641688068647]


@pytest.mark.parametrize("strength", [PAPER, MILD, TUNING])
def test_choices_have_the_distribution_of_the_pillow_views(strength):
    n, side = 3000, 100
    got = DeviceViews(strength, 64, seed=1).choices(np.arange(n), 0, side)
    boxes = np.array(
        [
            augment.crop_box((side, side), strength, augment.view_rng(0, b"%d" % i, 0))
            for i in range(n)
        ]
    )
    assert np.abs(got.boxes.mean(0) - boxes.mean(0)).max() < 2
    assert np.abs(got.boxes.std(0) / boxes.std(0) - 1).max() < 0.12
    assert (got.boxes[:, 0] + got.boxes[:, 2] <= side).all()
    assert (got.boxes[:, 1] + got.boxes[:, 3] <= side).all()
    assert abs(got.flip.mean() - strength.flip) < 0.04
    assert abs(got.grey.mean() - strength.grey_p) < 0.03
    assert abs((got.sigma > 0).mean() - strength.blur_p) < 0.04
    for name, amount in zip(
        ("brightness", "contrast", "saturation", "hue"), strength.jitter, strict=True
    ):
        value = getattr(got, name) - (name != "hue")
        assert np.abs(value).max() <= amount + 1e-6
        # Of a uniform distribution, where there is a change at all.
        assert (value**2).mean() == pytest.approx(strength.jitter_p * amount**2 / 3, rel=0.12)


@pytest.mark.parametrize("size", [(300, 100), (90, 160)])
def test_crops_of_squeezed_images_are_those_of_the_images(size):
    n, side = 3000, 64
    sizes = np.tile(np.array(size, np.int32), (n, 1))
    got = DeviceViews(MILD, side, seed=1).choices(np.arange(n), 0, side, sizes).boxes
    rngs = (augment.view_rng(0, b"%d" % i, 0) for i in range(n))
    boxes = np.array([augment.crop_box(size, MILD, rng) for rng in rngs])
    wanted = boxes * side / np.array([*size, *size])
    assert np.abs(got.mean(0) - wanted.mean(0)).max() < 1.3
    assert np.abs(got.std(0) - wanted.std(0)).max() < 1.3
    assert got.min() >= 0
    assert (got[:, :2] + got[:, 2:]).max() <= side * (1 + 1e-6)


def test_views_look_like_those_of_pillow():
    """Mean and spread of the values, over many views of the same image."""
    image = squares(1)
    n = 200
    got = DeviceViews(PAPER, 24, seed=0)(
        torch.from_numpy(np.repeat(image, n, 0)), np.arange(n), 0
    ).numpy()
    source = Image.fromarray(image[0])
    wanted = np.stack(
        [augment.make_view(source, PAPER, 24, augment.view_rng(0, b"%d" % i, 0)) for i in range(n)]
    ).transpose(0, 3, 1, 2)
    assert np.abs(got.mean((0, 2, 3)) - wanted.mean((0, 2, 3))).max() < 4
    assert got.std() == pytest.approx(wanted.std(), rel=0.06)
    assert got.mean((1, 2, 3)).std() == pytest.approx(wanted.mean((1, 2, 3)).std(), rel=0.25)


def test_no_augmentation_gives_the_image():
    image = squares(2)
    assert (
        as_pixels(DeviceViews(PLAIN, 48, 0)(torch.from_numpy(image), np.arange(2), 0))
    ).round() == (pytest.approx(image))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_views_on_a_gpu_are_those_of_the_cpu():
    image = torch.from_numpy(squares(8))
    views, rows = DeviceViews(PAPER, 32, 0), np.arange(8)
    there = views(image.cuda(), rows, 0).cpu()
    assert (there - views(image, rows, 0)).abs().max() < 0.5
