"""Vectors, codes and whole indexes in the files of other programs.

`vector_files.open_vectors` reads .npy, .npz, .fvecs, .bvecs, .ivecs, HDF5 and Parquet files in
batches. `train_vectors`, `import_vectors` and `encode_vectors` train, fill and use an index with
them, and `export.export_index` writes an index as npz, HDF5, Parquet, CSV or FAISS file.
"""

from hyperpq.utils.imports import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
