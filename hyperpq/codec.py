"""`HiHPQCodec`: conditioning, projection head and quantizer; features in, codes and tables out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu

from hyperpq.additive import INNER, AdditiveQuantizer
from hyperpq.additive_fit import fit_additive
from hyperpq.codebooks import (
    fit_codebooks,
    split_coordinates,
    split_curvatures,
    take_coordinates,
)
from hyperpq.codes import MOST_CODES, code_size, pack, unpack
from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.quantizer import LorentzProductQuantizer
from hyperpq.validation import as_codes, as_count, as_features

CONDITIONINGS = ("none", "unit", "root")
HEADS = ("linear", "orthogonal")
_ROWS = 8192
# Vectors kept for fitting codebooks of other lengths: 4 MB at 256 coordinates.
SAMPLE = 8192
# sqrt(c) times the clip radius at most: beyond it float32 loses near distances (docs/method.md).
_REACH = 5.0
_UNTRAINED = "the codec isn't trained; call train(x) first or load a trained one."


class HiHPQCodec(nn.Module):
    """The learned map between features and codes.

    Parameters
    ----------
    d : int
        Width of the features.
    M, D, nbits, score, beta, max_norm
        See `LorentzProductQuantizer`. The score ``inner`` takes an `AdditiveQuantizer` of
        vectors of D coordinates instead, which has no use for ``beta`` and ``max_norm``.
    conditioning : {"root", "unit", "none"}
        What happens to a feature first. ``root``: signed square root, minus the training mean, unit
        length; ``unit``: unit length; ``none``: taken as it is.
    head : {"linear", "orthogonal"}
        The map to M x D tangent coordinates (to D with the score ``inner``). ``orthogonal`` keeps
        its rows orthonormal times one scale (a point on a Stiefel manifold, trained with geoopt).
    hidden : int
        Width of the residual branch ``gelu(f A + a) B`` beside that map, f the conditioned feature;
        0 leaves it out.
    dropout : float
        Share of the branch's hidden units left out in training.

    Attributes
    ----------
    sample : Tensor, shape (s, F), float16
        Tangent vectors of training features as they were learned, for `with_bits`.
    learned_log_c : Tensor, shape (M0,)
        Log curvatures of the M0 subspaces that the representation was learned on.
    learned_norm : float
        Clip radius of these.
    """

    def __init__(
        self,
        d: int,
        M: int = 4,
        nbits: int = 8,
        *,
        D: int = 16,
        score: str = "l1",
        beta: float = 5.0,
        max_norm: float = 1.5,
        conditioning: str = "root",
        head: str = "linear",
        hidden: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if d < 1:
            raise InvalidInputError(f"d is {d}; expected the width of the features, at least 1.")
        if conditioning not in CONDITIONINGS:
            raise InvalidInputError(
                f"conditioning is {conditioning!r}; choose one of {', '.join(CONDITIONINGS)}."
            )
        if head not in HEADS:
            raise InvalidInputError(f"head is {head!r}; choose one of {', '.join(HEADS)}.")
        width = D if score == INNER else M * D
        if head == "orthogonal" and d < width:
            raise InvalidInputError(
                f"an orthogonal head has M x D = {width} rows, more than d = {d}; "
                "choose a smaller D or head='linear'."
            )
        if hidden < 0 or not 0 <= dropout < 1:
            raise InvalidInputError(
                f"hidden is {hidden} and dropout {dropout}; expected 0 or more, and 0 to below 1."
            )
        self.d, self.conditioning, self.head = d, conditioning, head
        self.hidden, self.dropout = hidden, dropout
        self.quantizer: LorentzProductQuantizer | AdditiveQuantizer = (
            AdditiveQuantizer(M, D, nbits)
            if score == INNER
            else LorentzProductQuantizer(M, D, nbits, score=score, beta=beta, max_norm=max_norm)
        )
        self.mean = nn.Buffer(torch.zeros(d))
        self.weight = nn.Parameter(torch.zeros(d, width))
        self.scale = nn.Buffer(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(width))
        if hidden:
            self.up = nn.Parameter(torch.zeros(d, hidden))
            self.up_bias = nn.Parameter(torch.zeros(hidden))
            self.down = nn.Parameter(torch.zeros(hidden, width))
        self.sample = nn.Buffer(torch.zeros(0, width, dtype=torch.float16))
        self.learned_log_c = nn.Buffer(torch.zeros(self.quantizer.spaces))
        self.learned_norm = float(max_norm)
        self.is_trained = False
        self.recipe: dict[str, Any] = {}

    @property
    def M(self) -> int:
        """Codes of one vector: number of subspaces, or of codebooks that add up."""
        return self.quantizer.M

    @property
    def product(self) -> LorentzProductQuantizer:
        """The quantizer of a codec whose score isn't ``inner``."""
        assert isinstance(self.quantizer, LorentzProductQuantizer)
        return self.quantizer

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""
        return code_size(self.quantizer.M, self.quantizer.nbits)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.weight.device

    def condition(self, x: Tensor) -> Tensor:
        """Features (n, d) -> conditioned features (n, d); a zero vector stays zero."""
        if self.conditioning == "none":
            return x
        if self.conditioning == "root":
            x = x.sign() * x.abs().sqrt() - self.mean
        return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def tangent(self, x: Tensor) -> Tensor:
        """Features (n, d) -> tangent vectors (n, M, D), not yet clipped; differentiable.

        With the score ``inner`` they are vectors (n, 1, D).
        """
        f = self.condition(x)
        v = f @ (self.weight * self.scale) + self.bias
        if self.hidden:
            inner = dropout(gelu(f @ self.up + self.up_bias), self.dropout, self.training)
            v = v + inner @ self.down
        return v.unflatten(1, (self.quantizer.spaces, self.quantizer.D))

    def keep_sample(self, v: Tensor) -> None:
        """Remember up to `SAMPLE` tangent vectors (n, M, D), evenly taken, and the curvatures."""
        step = -(-len(v) // SAMPLE)
        log_c: Tensor = self.learned_log_c
        if isinstance(self.quantizer, LorentzProductQuantizer):
            log_c = self.quantizer.log_c.detach()
        self.set_sample(v[::step].flatten(1).half(), log_c.clone())

    def set_sample(self, sample: Tensor, log_c: Tensor) -> None:
        """Take over tangent vectors (s, F) and log curvatures (M0,) of learning."""
        self.sample = nn.Buffer(sample.to(self.device))
        self.learned_log_c = nn.Buffer(log_c.to(self.device))

    @torch.no_grad()
    def with_bits(
        self, bits: int, *, nbits: int = 8, score: str | None = None, x: Any = None, seed: int = 0
    ) -> HiHPQCodec:
        """The same representation with codes of another length; nothing is learned again.

        The coordinates are cut into ``bits / nbits`` subspaces, and hyperbolic k-means fits their
        codebooks. With the score ``inner`` that many codebooks are learned again.

        Parameters
        ----------
        bits : int
            Bits of a code, a multiple of ``nbits``.
        nbits : {8, 4}
            Bits of one subquantizer.
        score : str, optional
            As it is unless given; ``inner`` stays, and is no choice for others.
        x : array_like, shape (n, d), optional
            Features to fit the codebooks to; the sample that the codec carries unless given.
        seed : int
            Of k-means.

        Returns
        -------
        HiHPQCodec
            On the CPU, in evaluation mode. Made from any relative of the codec it is the same.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        if not self.is_trained:
            raise NotTrainedError(_UNTRAINED)
        bits, nbits = as_count(bits, "bits"), as_count(nbits, "nbits")
        if nbits not in (4, 8) or bits % nbits or bits > MOST_CODES * nbits:
            raise InvalidInputError(
                f"bits is {bits} and nbits {nbits}; expected nbits 8 or 4 and a multiple of it, "
                f"{MOST_CODES} times as many at most."
            )
        score, M = self.quantizer.score if score is None else score, bits // nbits
        if (score == INNER) != (self.quantizer.score == INNER):
            raise InvalidInputError(
                f"score is {score!r}, but codes of a codec with the score "
                f"{self.quantizer.score!r} can't have it; leave it out."
            )
        if score == INNER:
            return self._additive_with_bits(M, nbits, x, seed)
        own, F = self.product, self.sample.shape[1]
        index = split_coordinates(F, M)
        # Columns of the learned map, without the zeros that fill up short subspaces.
        real = torch.from_numpy(np.flatnonzero(split_coordinates(F, own.M).ravel() >= 0))
        wide = self._rows_to_fit(x)
        if x is not None:
            wide = wide[:, real]
        log_c = split_curvatures(self.learned_log_c.cpu(), F, M)
        learned = len(self.learned_log_c)
        reach = self.learned_norm * max(1.0, learned / M) ** 0.5
        reach = min(reach, _REACH / float(log_c.exp().sqrt().max()))
        other = HiHPQCodec(
            self.d,
            M,
            nbits,
            D=index.shape[1],
            score=score,
            beta=own.beta,
            max_norm=reach,
            conditioning=self.conditioning,
            hidden=self.hidden,
            dropout=self.dropout,
        )
        other.recipe, other.learned_norm = self.recipe, self.learned_norm
        state = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        state["weight"] = state["weight"] * state.pop("scale")
        for name in ("weight", "bias", "down"):
            if name in state:
                getattr(other, name).copy_(take_coordinates(state[name][..., real], index))
        for name in ("mean", "up", "up_bias"):
            if name in state:
                getattr(other, name).copy_(state[name])
        other.set_sample(state["sample"], state["learned_log_c"])
        q = other.product
        q.log_c.copy_(log_c)
        v = take_coordinates(wide, index).unflatten(1, (M, index.shape[1]))
        q.codebooks.copy_(fit_codebooks(v, q.K, log_c, reach, seed=seed))
        other.is_trained = True
        return other.eval()

    def _additive_with_bits(self, M: int, nbits: int, x: Any, seed: int) -> HiHPQCodec:
        """`with_bits` of an additive quantizer."""
        v = self._rows_to_fit(x)
        other = HiHPQCodec(
            self.d, M, nbits, D=self.quantizer.D, score=INNER, conditioning=self.conditioning
        )
        state = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        for name in ("mean", "weight", "scale", "bias"):
            getattr(other, name).copy_(state[name])
        other.recipe = self.recipe
        other.set_sample(state["sample"], state["learned_log_c"])
        with torch.enable_grad():
            other.quantizer = fit_additive(v, M, nbits, seed=seed)
        other.is_trained = True
        return other.eval()

    def _rows_to_fit(self, x: Any) -> Tensor:
        """Tangent vectors of features as rows on the CPU; the codec's own sample without any."""
        if x is None:
            wide = self.sample.cpu().float()
        else:
            features = as_features(x, self.d)
            wide = torch.empty(len(features), self.weight.shape[1])
            for rows, block in self._blocks(features):
                wide[rows] = self.tangent(block).flatten(1).cpu()
        if not len(wide):
            raise InvalidInputError("x has no rows; expected features to fit codebooks to.")
        return wide

    def _blocks(self, x: NDArray[np.float32]) -> Iterator[tuple[slice, Tensor]]:
        """Points of blocks of rows, on the codec's device."""
        for start in range(0, len(x), _ROWS):
            rows = slice(start, min(start + _ROWS, len(x)))
            yield rows, torch.tensor(x[rows], device=self.device)

    def _features(self, x: Any) -> NDArray[np.float32]:
        if not self.is_trained:
            raise NotTrainedError(_UNTRAINED)
        return as_features(x, self.d)

    @torch.inference_mode()
    def embed(self, x: Any) -> NDArray[np.float32]:
        """Continuous representation of features: clipped tangent vectors.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Features.

        Returns
        -------
        ndarray, shape (n, M * D), float32
            (n, D) with the score ``inner``. `decode` gives the quantized counterpart in the same
            space.

        Raises
        ------
        NotTrainedError, InvalidInputError
            See `validation.as_features`.
        """
        x = self._features(x)
        out = np.empty((len(x), self.weight.shape[1]), np.float32)
        for rows, block in self._blocks(x):
            v = self.quantizer.clip(self.tangent(block))
            out[rows] = v.flatten(1).cpu().numpy()
        return out

    @torch.inference_mode()
    def encode(self, x: Any) -> NDArray[np.uint8]:
        """Features (n, d) -> codes (n, code_size) uint8, packed as `codes.pack` says.

        Raises
        ------
        NotTrainedError, InvalidInputError
            See `validation.as_features`.
        """
        x = self._features(x)
        out = np.empty((len(x), self.code_size), np.uint8)
        for rows, block in self._blocks(x):
            codes = self.quantizer.codes(self.quantizer.points(self.tangent(block)))
            out[rows] = pack(codes.cpu().numpy(), self.quantizer.nbits)
        return out

    @torch.inference_mode()
    def tables(self, x: Any) -> NDArray[np.float32]:
        """Distances from queries to every codeword, the ADC tables.

        Parameters
        ----------
        x : array_like, shape (nq, d)
            Query features.

        Returns
        -------
        ndarray, shape (nq, M, K), float32
            ``out[q, m, k]`` is the score of codeword k of subspace m: the Lorentzian distance
            (``l1``), its square (``geodesic``), the squared chord (``chord``) or a share of the
            squared distance (``inner``).

        Raises
        ------
        NotTrainedError, InvalidInputError
            See `validation.as_features`.
        """
        x = self._features(x)
        out = np.empty((len(x), self.quantizer.M, self.quantizer.K), np.float32)
        for rows, block in self._blocks(x):
            points = self.quantizer.points(self.tangent(block))
            out[rows] = self.quantizer.tables(points).cpu().numpy()
        return out

    @torch.inference_mode()
    def decode(self, codes: Any) -> NDArray[np.float32]:
        """Codes -> tangent vectors of their codewords, the space of `embed`.

        Parameters
        ----------
        codes : array_like, shape (n, code_size), uint8
            What `encode` returned.

        Returns
        -------
        ndarray, shape (n, M * D), float32

        Raises
        ------
        NotTrainedError, InvalidInputError
            Untrained, or codes of another dtype or width.
        """
        if not self.is_trained:
            raise NotTrainedError(_UNTRAINED)
        codes = as_codes(codes, self.code_size)
        unpacked = unpack(codes, self.quantizer.M, self.quantizer.nbits)
        v = self.quantizer.decode(torch.from_numpy(unpacked.copy()).to(self.device))
        return v.flatten(1).cpu().numpy()

    def settings(self) -> dict[str, Any]:
        """Everything but the weights, as JSON types."""
        q = self.quantizer
        bent = {}
        if isinstance(q, LorentzProductQuantizer):
            bent = {"beta": q.beta, "max_norm": q.max_norm}
        return {
            "d": self.d,
            "M": q.M,
            "D": q.D,
            "nbits": q.nbits,
            "score": q.score,
            **bent,
            "conditioning": self.conditioning,
            "head": self.head,
            "hidden": self.hidden,
            "dropout": self.dropout,
            "learned": {
                "M": len(self.learned_log_c),
                "F": self.sample.shape[1],
                "max_norm": self.learned_norm,
                "sample": len(self.sample),
            },
            "recipe": self.recipe,
        }
