"""How many images each baseline needs to learn from.

This is no part of `benchmarks.baselines`, as it changes no figure: published runs stay valid.
"""

from __future__ import annotations

from benchmarks.baselines import BASELINES, width
from benchmarks.learned_baselines import LEARNED
from hyperpq.errors import InvalidInputError

# Of 8 bits. FAISS's k-means refuses fewer vectors than it has to find.
CODEWORDS = 256
_KMEANS = ("pq", "pca_pq", "opq", "rq", "prq", "tangent_opq")
_ONE_BIT = ("itq", "itq_adc", "rabitq")


def min_training(name: str, bits: int) -> int:
    """Number of training vectors that a method needs, as many as codewords or components of PCA.

    Learned baselines compare at least two images. Methods that are no baselines need none.
    """
    if name in LEARNED:
        return 2
    if name in _KMEANS:
        return CODEWORDS
    if name in _ONE_BIT:
        return bits
    return width(bits) if name in BASELINES else 0


def check_training(name: str, bits: int, n: int) -> None:
    """Raise `InvalidInputError` if a method cannot learn from n vectors."""
    if n < (needed := min_training(name, bits)):
        raise InvalidInputError(
            f"{n} images train; {name} at {bits} bits expected at least {needed}; give more images."
        )
