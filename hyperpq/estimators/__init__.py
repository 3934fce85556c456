"""scikit-learn estimators: learned codes in pipelines, and graphs of nearest neighbours.

`HiHPQTransformer` maps rows to their learned representation or codes, and
`HiHPQNeighborsTransformer` finds nearest rows and maps rows to a sparse graph of neighbours. Both
need scikit-learn.
"""

from hyperpq.utils.imports import need

# Classes need their bases, so nothing here can be imported without scikit-learn.
need("sklearn", "sklearn", "the estimators")

from hyperpq.estimators.neighbors import HiHPQNeighborsTransformer  # noqa: E402
from hyperpq.estimators.transformer import HiHPQTransformer  # noqa: E402

__all__ = ["HiHPQNeighborsTransformer", "HiHPQTransformer"]
