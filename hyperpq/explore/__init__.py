"""A collection to look around in: its rows in nested clusters, a map of them, and the codewords.

`Tree.of` clusters the rows of an index by their codes alone, `Layout.of` gives each cluster a
rectangle and each row a place in it, and `codeword_disks` shows the codewords of each subspace on a
disk. All are plain arrays and dataclasses with ``to_json``. `Exploration` makes each of them once
for a snapshot.
"""

from hyperpq.utils.imports import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
