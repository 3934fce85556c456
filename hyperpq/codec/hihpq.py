"""`HiHPQCodec`: power normalization, projection head and product quantizer."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import gelu
from typing_extensions import Self, override

from hyperpq.codec.config import CodecConfig
from hyperpq.codec.learned import HeadCodec, Product
from hyperpq.codec.relength import fit_length
from hyperpq.codec.smoothing import Smoothing
from hyperpq.codec.subspace_split import split_coordinates
from hyperpq.codec.subspaces import take_coordinates, varying_coordinates
from hyperpq.geometry.registry import METRICS, Metric
from hyperpq.inference.smoothing import weight_for_bits
from hyperpq.quantizers.product import ProductQuantizer
from hyperpq.utils.validation import as_choice

log = logging.getLogger(__name__)


class HiHPQCodec(HeadCodec):
    """The learned map between features and product codes.

    A feature is normalized, mapped to tangent vectors of M subspaces, smoothed, and each subspace
    codes its tangent vector by the nearest codeword.

    Parameters
    ----------
    config : CodecConfig
        Settings.

    Attributes
    ----------
    up, up_bias, down : Parameter, shapes (d, hidden), (hidden,), (hidden, width)
        A, a and B of the residual branch, see `CodecConfig`; only with ``hidden`` above 0.
    order : Buffer, shape (F,), int64, or None
        Order in which the learned coordinates are cut into subspaces, see `spread_coordinates`;
        None where they are cut as they were learned.
    centroids : Buffer, shape (m, F), float16
        Centroids of the sample, which vectors are smoothed with.
    smoothing : Smoothing
        What smooths vectors, made of the centroids.
    learned_log_c : Buffer, shape (M0,)
        Log curvatures of the M0 subspaces that the representation was learned on.
    learned_max_norm : float
        Clip radius of these.
    """

    config: CodecConfig
    quantizer: ProductQuantizer

    METRICS = METRICS

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        self.quantizer = ProductQuantizer(
            config.M,
            config.D,
            config.nbits,
            metric=config.metric,
            beta=config.beta,
            max_norm=config.max_norm,
            geometry=config.geometry,
        )
        if config.hidden:
            self.up = nn.Parameter(torch.zeros(config.d, config.hidden))
            self.up_bias = nn.Parameter(torch.zeros(config.hidden))
            self.down = nn.Parameter(torch.zeros(config.hidden, config.width))
        self.order: Tensor | None
        self.register_buffer("order", None)
        self.set_centroids(torch.zeros(0, config.width, dtype=torch.float16))
        self.learned_log_c = nn.Buffer(torch.zeros(config.M))
        self.learned_max_norm = config.max_norm

    @override
    @torch.no_grad()
    def vectors(self, x: Tensor) -> Tensor:
        v = self._map(x.double(), self._exact_product)
        return cast(Tensor, self.smoothing(v.flatten(1))).view_as(v).float()

    @override
    def _head(self, f: Tensor, product: Product) -> Tensor:
        v = super()._head(f, product)
        if not self.config.hidden:
            return v
        inner = gelu(product(f, "up") + self.up_bias.to(f.dtype))
        dropout = self.config.dropout
        # Not where a vector is encoded, whatever mode the module is in.
        if self.training and dropout and torch.is_grad_enabled():
            # Half the time that torch's own dropout takes on a CPU.
            inner = inner * (torch.rand_like(inner) >= dropout) / (1 - dropout)
        return v + product(inner, "down")

    @override
    def keep_sample(self, v: Tensor) -> None:
        super().keep_sample(v)
        self.learned_log_c = nn.Buffer(self.quantizer.log_c.detach().clone())

    def set_beta(self, beta: float) -> None:
        """Set the sharpness of the attention that training derived from the data."""
        self.config = replace(self.config, beta=beta)
        self.quantizer.beta = self.config.beta

    def set_centroids(self, centroids: Tensor) -> None:
        """Smooth vectors with centroids (m, F) of the sample, see `fit_centroids`, from now on."""
        self.centroids = nn.Buffer(centroids.half().to(self.device))
        index = self._coordinates(centroids.shape[1])
        self.smoothing = self.smoothing_with(take_coordinates(self.centroids.float(), index))

    def smoothing_with(self, centroids: Tensor) -> Smoothing:
        """Smoothing of vectors (n, F) with centroids (m, F), by the settings of this codec."""
        weight = weight_for_bits(self.config.smoothing_weight, self.M * self.nbits)
        return Smoothing(centroids, weight, self.config.smoothing_neighbours)

    def disable_refinements(self) -> None:
        """Switch smoothing, and distillation in `with_bits`, off."""
        self.config = replace(self.config, smoothing_weight=0.0, distil_epochs=0)
        self.set_centroids(self.centroids)

    def columns(self) -> NDArray[np.int64]:
        """Column of the head, shape (F,), that has each of the learned coordinates."""
        index = self._coordinates(self.sample.shape[1]).ravel()
        columns = np.flatnonzero(index >= 0)
        return columns[np.argsort(index[columns])]

    def _coordinates(self, F: int) -> NDArray[np.int64]:
        """Learned coordinates (M, D) of each subspace, see `split_coordinates`."""
        order = None if self.order is None else self.order.cpu().numpy()
        return split_coordinates(F, self.M, order)

    @override
    def warn_of_noise(self) -> None:
        """Log a warning if the sample has fewer directions than a vector has codes.

        Sample vectors that are as few as the codes show nothing about others, so nothing is said.
        """
        varies, index = varying_coordinates(self.sample), self._coordinates(self.sample.shape[1])
        used = int((varies[index] & (index >= 0)).any(1).sum())
        if not used:
            if len(self.sample) > 1:
                log.warning(
                    "The features are all equal, and so are their codes, whatever their length: "
                    "8 bits are enough."
                )
        elif used < min(self.M, len(self.sample)):
            log.warning(
                "%d of the %d codes of a vector hold nothing but noise, as the features vary in %d "
                "directions only: %d bits are enough.",
                self.M - used,
                self.M,
                int(varies.sum()),
                -(-used * self.nbits // 8) * 8,
            )

    def learned_space(self, metric: Metric) -> ProductQuantizer:
        """The space that the representation was learned in, under a metric; it has no codewords."""
        M = len(self.learned_log_c)
        space = ProductQuantizer(
            M,
            self.sample.shape[1] // M,
            4,
            metric=metric,
            max_norm=self.learned_max_norm,
            geometry=self.config.geometry,
        )
        space.log_c.copy_(self.learned_log_c)
        return space

    @override
    def learned_vectors(self, features: NDArray[np.float32]) -> Tensor:
        return super().learned_vectors(features)[:, torch.from_numpy(self.columns())]

    @override
    def _with_length(self, M: int, nbits: int, metric: str, rows: Tensor, seed: int) -> Self:
        return fit_length(self, M, nbits, as_choice(metric, "metric", METRICS), rows, seed=seed)

    @override
    def points_of_sample(self, rows: Tensor) -> Tensor:
        v = take_coordinates(rows.double(), self._coordinates(rows.shape[1]))
        v = self.smoothing(v).unflatten(1, (self.quantizer.M, self.quantizer.D))
        return self.quantizer.points(v)

    @override
    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        settings["learned"] |= {
            "M": len(self.learned_log_c),
            "max_norm": self.learned_max_norm,
            "centroids": len(self.centroids),
        }
        return settings
