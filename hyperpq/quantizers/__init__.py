"""Quantizers: vectors to codes, distance tables and back; and how their codebooks are fitted.

A `Quantizer` has M codebooks of K codewords. `ProductQuantizer` codes the points of M subspaces in
any geometry (`LorentzProductQuantizer` is its earlier name); `FlatProductQuantizer` has the plain
codebooks of FAISS's ``IndexPQ``; `AdditiveQuantizer` has codewords that add up.
"""

from hyperpq.utils.imports import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
