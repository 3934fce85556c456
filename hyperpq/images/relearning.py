"""When the codec of an index of images is learned again, and what is said where it is not."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from hyperpq.codec.sample import SAMPLE_SIZE, evenly
from hyperpq.errors import MissingDependencyError, TrainingError
from hyperpq.index.learning import TRAIN_SIZE
from hyperpq.progress import ProgressLike
from hyperpq.training.fit import MAX_FIT_ROWS
from hyperpq.training.split import MIN_CHECKED_IMAGES
from hyperpq.utils.validation import as_choice

if TYPE_CHECKING:
    from hyperpq.index.hihpq_index import HiHPQIndex
    from hyperpq.index.reader import IndexView
    from hyperpq.index.training_record import TrainingRecord

log = logging.getLogger(__name__)

Relearn = Literal["auto", "never", "now"]
"""Whether an update learns the codec again: if it is of use, never, or in any case."""
MODES: tuple[Relearn, ...] = get_args(Relearn)


class Limits(NamedTuple):
    """What an index may do without being learned again.

    Attributes
    ----------
    up_to : float
        Images that the codec was learned from, for which these limits hold.
    growth : float
        The codec is learned again if there are more than so many times the images that it was
        learned from, of which more than the largest sample do not count.
    unlike : float
        It is learned again if at least this share of the images is unlike those that it was learned
        from, see `FitStatistics.unlike`.
    """

    up_to: float
    growth: float
    unlike: float


@dataclass(frozen=True)
class RelearnPolicy:
    """When a codec no longer fits the images of its index.

    A codec that was learned from few images gains most from more, and costs least. Images that it
    has not seen also do harm to the others: they lie in the middle, near every query. The defaults
    keep precision@10 within .02 of that of an index that is built anew (docs/results/growth.md).

    Attributes
    ----------
    limits : tuple of Limits
        By the number of images that a codec was learned from, ascending.
    """

    limits: tuple[Limits, ...] = (
        Limits(1000, 1.0, 0.02),
        Limits(5000, 1.05, 0.02),
        Limits(math.inf, 1.25, 0.05),
    )

    def limits_of(self, n: int) -> Limits:
        """The limits of a codec that was learned from n images."""
        return next(one for one in self.limits if n <= one.up_to)

    def reason(
        self, n: int, record: TrainingRecord, unlike: float = 0.0, train_size: int = TRAIN_SIZE
    ) -> str | None:
        """Why the codec does not fit, in words that need no knowledge of codecs; None if it does.

        Parameters
        ----------
        n : int
            Images of the index.
        record : TrainingRecord
            What the codec was learned from.
        unlike : float
            Share of the images that is unlike these.
        train_size : int
            Images that a codec is learned from at most.
        """
        usable, limits = min(n, train_size), self.limits_of(record.n)
        if record.n < MIN_CHECKED_IMAGES <= usable or usable > limits.growth * record.n:
            return f"the index learned from {record.n:,} images and has {n:,} now"
        if unlike >= limits.unlike:
            of = "of another kind than those that the index learned from"
            return f"{unlike:.0%} of the images are {of}"
        return None


POLICY = RelearnPolicy()
"""When an update learns again by itself."""
WARNING_POLICY = RelearnPolicy((Limits(math.inf, 2.0, 0.05),))
"""When it says that learning again would be of use, where it may not or cannot."""


def relearn_if_needed(
    index: HiHPQIndex,
    mode: Relearn = "auto",
    *,
    train_size: int = TRAIN_SIZE,
    seed: int = 0,
    progress: ProgressLike = None,
) -> str | None:
    """Learn the codec of an index of images again if it no longer fits them.

    Nothing is done to an index whose codec was given to it, as it has no record of a training.

    Parameters
    ----------
    index : HiHPQIndex
        Images, all of them stored.
    mode : {"auto", "never", "now"}
        ``auto``: if `POLICY` says so. ``never``: not, but a warning names the remedy if
        `WARNING_POLICY` says so. ``now``: in any case.
    train_size : int
        Images that are learned from at most.
    seed : int
        Of the training.
    progress : Progress or bool, optional
        Where to report.

    Returns
    -------
    str or None
        Why it was learned again, as a sentence; None if it was not.

    Raises
    ------
    InvalidInputError
        The mode is unknown; or it is ``now``, and the index keeps no features or has no images.
    TrainingError, MissingDependencyError
        Learning failed, with ``now``; with ``auto`` that is a warning, and the codec stays.
    StoreError
        The system refuses to write; the index is as it was.
    """
    mode = as_choice(mode, "relearn", MODES)
    if mode == "now":
        index.retrain(train_size=train_size, seed=seed, progress=progress)
        return "it was asked for"
    automatic = mode == "auto" and index.has_features
    policy = POLICY if automatic else WARNING_POLICY
    reason = _reason(policy, index.view(), train_size)
    if reason is None:
        return None
    if not automatic:
        _warn(reason, _remedy(index))
        return None
    log.info("%s: it learns again.", reason)
    try:
        index.retrain(train_size=train_size, seed=seed, progress=progress)
    except (TrainingError, MissingDependencyError) as error:
        log.warning("%s, but it could not learn again and stays as it was: %s", reason, error)
        return None
    return reason


def warn_of_growth(index: HiHPQIndex, before: int) -> None:
    """Warn, once, that learning again would be of use, by the numbers of images alone.

    Nothing is said of an index without a record of what its codec was learned from.

    Parameters
    ----------
    index : HiHPQIndex
        Images, some of which were just added.
    before : int
        Number of images before that.
    """
    record = index.training
    if record is None or WARNING_POLICY.reason(before, record) is not None:
        return
    if reason := WARNING_POLICY.reason(index.ntotal, record):
        _warn(reason, "call retrain().")


def describe_training(index: IndexView, noun: str = "images") -> dict[str, str]:
    """What the codec of an index was learned from and how well it fits, for people.

    Parameters
    ----------
    index : IndexView
        A snapshot of a trained index.
    noun : str
        What its rows are.

    Returns
    -------
    dict of str to str
        ``learned from`` and, where it is known, ``fit``.
    """
    record = index.training
    if record is None:
        return {"learned from": _known_number(index, noun)}
    how = "" if record.learned else "; PCA and k-means, as learning needs more or gained nothing"
    out = {"learned from": f"{_counted(record.n, noun)}{how}"}
    if not index.ntotal:
        return out
    unlike = _unlike(index, record)
    reason = POLICY.reason(index.ntotal, record, unlike)
    which = _counted(record.n, noun)
    if record.n < index.ntotal:
        which = f"{record.n:,} of {index.ntotal:,} {noun}"
    elif 1 < record.n == index.ntotal:
        which = f"all {which}"
    kind = f"{unlike:.0%} are of another kind" if unlike >= 0.005 else "all are of the same kind"
    by = "hyperpq update --relearn" if noun == "images" else "retrain()"
    verdict = "good" if reason is None else f"outgrown, learn again with {by}"
    out["fit"] = f"{verdict}: learned from {which}, {kind}"
    return out


def _warn(reason: str, remedy: str) -> None:
    log.warning("%s, so its results are worse than they could be; %s", reason, remedy)


def _reason(policy: RelearnPolicy, view: IndexView, train_size: int) -> str | None:
    """Why a codec does not fit, by a policy; the features are read only if the numbers allow."""
    record, n = view.training, view.ntotal
    if record is not None:
        reason = policy.reason(n, record, train_size=train_size)
        if reason is None and n:
            reason = policy.reason(n, record, _unlike(view, record), train_size)
        return reason
    few = None if view.has_features else _sampled(view)
    if few is None or min(n, train_size) <= policy.limits_of(few).growth * few:
        return None
    return f"the index learned from about {few:,} images and has {n:,} now"


def _unlike(view: IndexView, record: TrainingRecord) -> float:
    """Share of the images that is unlike those that the codec was learned from."""
    return record.fit.unlike(view.features_of(evenly(view.ids, MAX_FIT_ROWS)))


def _sampled(view: IndexView) -> int | None:
    """Vectors of the training that the codec keeps, all of up to 8,192; None if it keeps none."""
    held = view.rows.held
    return None if held is None else held.n_sample


def _known_number(view: IndexView, noun: str) -> str:
    """How many vectors a codec was learned from, as far as its sample tells."""
    few = _sampled(view)
    if few is None:
        return "not recorded"
    # Of more than `SAMPLE_SIZE`, every second or third is kept, which is more than half of that.
    return _counted(few, noun) + (" or more" if few > SAMPLE_SIZE // 2 else "")


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun.removesuffix('s') if n == 1 else noun}"


def _remedy(index: HiHPQIndex) -> str:
    if index.has_features:
        return "let it learn again: `hyperpq update --relearn`, or images.retrain() in Python."
    name = "the index" if index.path is None else os.fsdecode(index.path)
    return f"{name} keeps no features to learn from, so build it anew with --overwrite."
