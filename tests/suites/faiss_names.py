"""FAISS's names over indexes of hyperpq, for the tests of FAISS.

`Faiss` stands in for the module ``faiss`` in FAISS's own test files. It translates names and the
forms of arguments, and computes nothing: every vector is coded, searched, removed, merged and
stored by hyperpq. An index of FAISS that hyperpq does not have is replaced by the nearest that it
has (`nearest`). Whatever has no counterpart is an ``AttributeError``, so that a test that needs it
fails. Data, exact neighbours and constants come from FAISS.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable
from typing import Any

import faiss as real
import numpy as np

import hyperpq.index
from hyperpq.errors import HyperPQError
from hyperpq.filters import selectors

# What FAISS's tests take from FAISS: data, exact neighbours, conversions, constants, threads.
HELPERS = {
    "__version__", "get_compile_options", "swig_version", "contrib", "rand", "randn", "randint",
    "normalize_L2", "knn", "pairwise_distances", "eval_intersection", "rev_swig_ptr",
    "omp_set_num_threads", "omp_get_max_threads", "check_openmp", "get_mem_usage_kb", "cvar",
    "DirectMap", "ScalarQuantizer",
}  # fmt: skip


class Counter:
    """How many calls have reached hyperpq."""

    calls = 0


def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call hyperpq; its errors are those of FAISS's C++ code, ``RuntimeError``."""
    Counter.calls += 1
    try:
        return function(*args, **options)
    except HyperPQError as error:
        raise RuntimeError(str(error)) from error


def learned() -> bool:
    """Whether indexes have a learned codec instead of plain codebooks."""
    return os.environ.get("HYPERPQ_SUITE_CODEC", "pq") == "hihpq"


def nearest(d: int, key: str) -> str:
    """The nearest key of hyperpq for a factory key of FAISS.

    ``PQ{M}x{nbits}`` is the same, without the flags of polysemous and 4-bit scans; fewer than 8
    bits are 4. ``Flat`` and ``SQ`` keep each coordinate: they become up to 16 codes of 8 bits, from
    which up to 256 vectors are restored exactly. Inverted lists are left out: every search looks at
    all rows. Everything else stays as it is and is refused by `hyperpq.index_factory`.
    """
    before, middle, after = re.fullmatch(
        r"((?:IDMap2?,)?)(?:IVF\d+,)?(.*?)((?:,IDMap2?)?)", key
    ).groups()  # type: ignore[union-attr]
    if match := re.fullmatch(r"PQ(\d+)(?:x([24568]))?(?:np|fsr?(?:_\d+)?)?", middle):
        middle = f"PQ{match[1]}x{8 if match[2] in (None, '8') else 4}"
    elif re.fullmatch(r"Flat|SQ(?:4|6|8|fp16|bf16)", middle):
        middle = f"PQ{max(M for M in range(1, 17) if d % M == 0)}x8"
    if learned():
        middle = re.sub(r"^PQ(?=\d+x[48]$)", "HiHPQ", middle)
    return before + middle + after


def array_of(n: Any, pointer: Any) -> Any:
    """The array that FAISS is given as a length and a pointer, or as an array alone."""
    return n if pointer is None else np.asarray(pointer)[:n]


class Index:
    """FAISS's face of a `HiHPQIndex`; attributes that it does not have cannot be set either."""

    def __init__(self, d: int, key: str = "Flat", metric: int = real.METRIC_L2) -> None:
        # An index of vectors as they are needs no training: its codebooks are learned from the
        # first vectors that are added.
        ours = call(hyperpq.index_factory, d, nearest(d, key), *self._metric(metric), device="cpu")
        self._hold(ours, metric, key, "IDMap" in key)

    @staticmethod
    def _metric(metric: int) -> tuple[int, ...]:
        return () if metric == real.METRIC_L2 or learned() else (metric,)

    def _hold(self, ours: Any, metric: int, key: str, has_ids: bool) -> None:
        has_lists = "IVF" in key
        trained_by_add = ("Flat" in key and not has_lists) or "SQfp16" in key or "SQbf16" in key
        values = {
            "ours": ours, "metric_type": metric, "key": key, "trained_by_add": trained_by_add,
            "has_ids": has_ids, "has_lists": has_lists,
        }  # fmt: skip
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        # An index that looks at all rows looks at those of any number of lists.
        if name != "nprobe" or not self.has_lists:
            raise AttributeError(f"hyperpq has no attribute {name} of an index")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "ours":
            raise AttributeError(name)
        found = getattr(self.ours, name)
        if not callable(found):
            Counter.calls += 1
            return found
        return lambda *args, **options: call(found, *args, **options)

    @property
    def is_trained(self) -> bool:
        return self.trained_by_add or self.ours.is_trained

    @property
    def index(self) -> Index:
        """The index inside an `IndexIDMap`: ids belong to the same index here."""
        if not self.has_ids:
            raise AttributeError("index")
        return self

    @property
    def id_map(self) -> Any:
        return self.ours.ids

    @property
    def codes(self) -> Any:
        return call(self.ours.codes_of, self.ours.ids).ravel()

    @property
    def cp(self) -> Any:
        """Settings of k-means, which hyperpq chooses itself."""
        if not self.has_lists:
            raise AttributeError("cp")
        return types.SimpleNamespace()

    def train(self, x: Any) -> None:
        if ("PQ" not in self.key or self.has_lists) and 0 < len(x) < 256:
            # Other vectors need fewer rows for training than codebooks, which want 256.
            x = np.resize(np.asarray(x), (256, np.shape(x)[1]))
        # Without epochs a learned codec is PCA and k-means, which is enough to test calls.
        call(self.ours.train, x, **({"epochs": 0} if learned() else {}))

    def _learn(self, x: Any) -> None:
        if self.trained_by_add and not self.ours.is_trained:
            self.train(np.asarray(x)[:5000])

    def range_search(self, x: Any, radius: float, **options: Any) -> tuple[Any, Any, Any]:
        """The results of each query by id, as FAISS's scan of all rows finds them."""
        lims, D, I = call(self.ours.range_search, x, radius, **options)  # noqa: E741
        order = np.lexsort((I, np.repeat(np.arange(len(lims) - 1), np.diff(lims))))
        return lims, D[order], I[order]

    def add(self, x: Any) -> None:
        self._learn(x)
        call(self.ours.add, x)

    def add_with_ids(self, x: Any, ids: Any) -> None:
        self._learn(x)
        call(self.ours.add_with_ids, x, ids)

    def remove_ids(self, ids: Any) -> int:
        return int(call(self.ours.remove_ids, ids))

    def update_vectors(self, ids: Any, x: Any) -> None:
        call(self.ours.update, x, ids)

    def make_direct_map(self) -> None:
        """Without lists rows are found by their ids anyway."""
        if not self.has_lists:
            raise AttributeError("make_direct_map")

    def merge_from(self, other: Index, add_id: int = 0) -> None:
        # Rows without ids are numbered by their position, and those of `other` follow.
        shift = add_id if self.has_ids or add_id else self.ours.next_id
        call(self.ours.merge_from, other.ours, shift)


class IndexFlat(Index):
    def __init__(self, d: int, metric: int = real.METRIC_L2) -> None:
        if metric not in (real.METRIC_L2, real.METRIC_INNER_PRODUCT):
            raise AttributeError(f"hyperpq has no plain codes with metric {metric}")
        super().__init__(d, "Flat", metric)


class IndexFlatL2(IndexFlat):
    def __init__(self, d: int) -> None:
        super().__init__(d)


class IndexFlatIP(IndexFlat):
    def __init__(self, d: int) -> None:
        super().__init__(d, real.METRIC_INNER_PRODUCT)


class IndexPQ(Index):
    def __init__(self, d: int, M: int, nbits: int, metric: int = real.METRIC_L2) -> None:
        super().__init__(d, f"PQ{M}x{nbits}", metric)


class IndexIVFFlat(Index):
    """Without its lists."""

    def __init__(self, quantizer: Index, d: int, nlist: int, metric: int = real.METRIC_L2) -> None:
        super().__init__(d, f"IVF{nlist},Flat", metric)


class IndexIVFPQ(Index):
    """Without its lists."""

    def __init__(
        self, quantizer: Index, d: int, nlist: int, M: int, nbits: int,
        metric: int = real.METRIC_L2,
    ) -> None:  # fmt: skip
        super().__init__(d, f"IVF{nlist},PQ{M}x{nbits}", metric)


class IndexIDMap(Index):
    """The index itself, whose rows have ids."""

    def __init__(self, index: Index) -> None:
        self._hold(index.ours, index.metric_type, index.key, True)


class IndexIDMap2(IndexIDMap):
    pass


class SIMDConfig:
    """One level: which one hyperpq scans with is not FAISS's."""

    @staticmethod
    def is_simd_level_available(level: int) -> bool:
        return bool(level == real.SIMDLevel_NONE)

    @staticmethod
    def get_level() -> int:
        return int(real.SIMDLevel_NONE)

    get_dispatched_level = get_level

    @staticmethod
    def set_level(level: int) -> None:
        assert level == real.SIMDLevel_NONE


def index_factory(d: int, key: str, metric: int = real.METRIC_L2) -> Index:
    return Index(d, key, metric)


def clone_index(index: Index) -> Index:
    other = type(index).__new__(type(index))
    other.__dict__.update(index.__dict__ | {"ours": call(index.ours.clone)})
    return other


class Bytes:
    """FAISS's vector of bytes."""

    value: Any = b""

    def swap(self, other: Bytes) -> None:
        self.value, other.value = other.value, self.value


class VectorIOWriter:
    def __init__(self) -> None:
        self.data = Bytes()


class VectorIOReader(VectorIOWriter):
    pass


class ZeroCopyIOReader(VectorIOReader):
    def __init__(self, pointer: Any, size: int) -> None:
        super().__init__()
        self.data.value = pointer[:size]


def write_index(index: Index, place: Any) -> None:
    """To bytes, or to a directory whose name is that of FAISS's file with an ending."""
    if isinstance(place, VectorIOWriter):
        place.data.value = serialize_index(index)
    else:
        call(hyperpq.write_index, index.ours, f"{place}.index")


def read_index(place: Any, flags: int = 0) -> Index:
    if isinstance(place, VectorIOReader):
        return deserialize_index(place.data.value)
    return opened(call(hyperpq.read_index, f"{place}.index", device="cpu"))


def serialize_index(index: Index) -> Any:
    return np.frombuffer(call(hyperpq.index.serialize_index, index.ours), np.uint8)


def deserialize_index(data: Any) -> Index:
    return opened(call(hyperpq.index.deserialize_index, data, device="cpu"))


def opened(ours: Any) -> Index:
    """An index that was read: it has ids of its own if they are not the numbers of the rows."""
    index = Index.__new__(Index)
    has_ids = not np.array_equal(ours.ids, np.arange(ours.ntotal))
    index._hold(ours, real.METRIC_L2, "PQ", has_ids)
    return index


def selector_of_ids(kind: type) -> Callable[..., Any]:
    """FAISS's constructor of a selector of ids: an array, or a length and a pointer."""
    return lambda n, pointer=None: call(kind, array_of(n, pointer))


def same_selector(index: Index, selector: Any) -> Any:
    """``IDSelectorTranslated``: rows have no numbers besides their ids."""
    return selector


def same(value: Any) -> Any:
    """``downcast_index`` and ``swig_ptr``: Python's objects need neither."""
    return value


def merge_knn_results(D: Any, I: Any, keep_max: bool = False) -> tuple[Any, Any]:  # noqa: E741
    if keep_max:
        raise AttributeError("hyperpq has no results with descending distances")
    return call(hyperpq.merge_results, list(zip(D, I, strict=True)), D.shape[2])  # type: ignore[no-any-return]


def vector_to_array(vector: Any) -> Any:
    if isinstance(vector, Bytes):
        return np.frombuffer(vector.value, np.uint8)
    return vector if isinstance(vector, np.ndarray) else real.vector_to_array(vector)


def copy_array_to_vector(array: Any, vector: Any) -> None:
    if isinstance(vector, Bytes):
        vector.value = array
    else:
        real.copy_array_to_vector(array, vector)


class Faiss(types.ModuleType):
    """The module ``faiss`` for tests."""

    def __init__(self) -> None:
        super().__init__("faiss")
        self.__path__ = real.__path__
        ours: list[Any] = [
            Index, IndexFlat, IndexFlatL2, IndexFlatIP, IndexPQ, IndexIVFFlat, IndexIVFPQ,
            IndexIDMap, IndexIDMap2, SIMDConfig, index_factory, clone_index,
            write_index, read_index, serialize_index, deserialize_index, merge_knn_results,
            vector_to_array, copy_array_to_vector, VectorIOWriter, VectorIOReader, ZeroCopyIOReader,
        ]  # fmt: skip
        self.__dict__.update({item.__name__: item for item in ours})
        for name in ("All", "Range", "Not", "And", "Or", "XOr"):
            setattr(self, f"IDSelector{name}", getattr(selectors, f"IDSelector{name}"))
        for name in ("Array", "Batch", "Bitmap"):
            kind = getattr(selectors, f"IDSelector{name}")
            setattr(self, f"IDSelector{name}", selector_of_ids(kind))
        self.IDSelectorTranslated = same_selector
        for name in ("", "PQ", "IVF"):
            setattr(self, f"SearchParameters{name}", selectors.SearchParameters)
        self.downcast_index = self.swig_ptr = same

    def __getattr__(self, name: str) -> Any:
        if name in HELPERS or name.startswith(("METRIC_", "SIMDLevel_", "IO_FLAG_")):
            return getattr(real, name)
        raise AttributeError(f"hyperpq has no counterpart of faiss.{name}")
