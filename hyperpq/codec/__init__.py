"""Codecs: features in, codes and distance tables out, and their files.

`HiHPQCodec` has product codes and `AdditiveCodec` additive ones; both are learned, and `with_bits`
gives them codes of another length (`LearnedCodec`). `PQCodec` has plain codebooks, as FAISS has. A
frozen `CodecConfig`, `AdditiveConfig` or `PQConfig` holds the settings of each, and `Codec` is what
they all are. `hyperpq.codec.serialization` reads and writes them.
"""

from hyperpq.utils.imports import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
