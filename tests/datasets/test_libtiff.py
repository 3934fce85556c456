"""libtiff's own lines on stderr are kept out: they name no file."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, features

PROGRAM = """
import sys
from PIL import Image

try:
    Image.open(sys.argv[1]).load()
except OSError:
    print("then", file=sys.stderr, flush=True)
from hyperpq.datasets.decode import open_image
from hyperpq.errors import ImageError

try:
    open_image(sys.argv[1])
except ImageError as error:
    print(error)
"""


@pytest.mark.skipif(not features.check("libtiff"), reason="Pillow is without libtiff")
def test_a_damaged_tiff_has_a_reason_and_no_line_of_its_decoder(tmp_path):
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(data, "TIFF", compression="tiff_lzw")
    torn = bytearray(data.getvalue())
    middle = len(torn) // 2
    torn[middle : middle + 400] = b"\xff" * 400
    (tmp_path / "torn.tif").write_bytes(torn)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "torn.tif"], capture_output=True, text=True
    )
    assert done.stdout == "damaged\n"
    # Pillow alone lets libtiff write.
    before, _, after = done.stderr.partition("then\n")
    assert "code" in before
    assert after == ""
