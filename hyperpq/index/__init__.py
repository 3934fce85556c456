"""Indexes with the interface of FAISS: train, add, search, save.

`HiHPQIndex` consists of a codec and a `Collection` of coded rows, which are read through a
`RowView`. `index_factory`, `read_index`, `write_index`, `serialize_index` and `deserialize_index`
are FAISS's free functions.
`from_faiss`, `to_faiss`, `write_faiss` and `FaissExport` convert codes and codebooks.
"""

from hyperpq.utils.imports import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
