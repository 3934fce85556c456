"""`UpdatePlan`: what an update is asked for, and what it has listed, before the index is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hyperpq.datasets.file_source import may_exist
from hyperpq.datasets.listing import Listing, RootOptions
from hyperpq.datasets.root_faults import missing_root, root_fault
from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.images.build.listing import list_for_build
from hyperpq.images.build.options import (
    FIXED_OPTIONS,
    BuildChoices,
    BuildOptions,
    as_finetune,
    check_codec_alone,
)
from hyperpq.images.build.state import BuildState
from hyperpq.images.changes import is_below
from hyperpq.images.listing import PathLike, as_roots
from hyperpq.images.metadata import ImageMetadata, no_images
from hyperpq.images.relearning import MODES, Relearn
from hyperpq.images.roots import Roots, present_roots
from hyperpq.index.view import RowView
from hyperpq.progress import Progress
from hyperpq.store import IndexStore, find_place
from hyperpq.utils.validation import as_choice


@dataclass(frozen=True)
class UpdateRequest:
    """What an update is asked for; see `update_index`.

    Attributes
    ----------
    remove_missing, allow_empty, relearn
        See `update_index`.
    options : BuildChoices
        The options of the build that it names.
    """

    remove_missing: bool = True
    allow_empty: bool = False
    relearn: Relearn = "auto"
    options: BuildChoices = field(default_factory=BuildChoices)

    def __post_init__(self) -> None:
        as_choice(self.relearn, "relearn", MODES)
        check_codec_alone(self.options)

    @property
    def may_empty_folders(self) -> bool:
        """Whether the images of a folder that has none any more are removed."""
        return self.remove_missing and self.allow_empty


@dataclass(frozen=True)
class UpdatePlan:
    """What an update has listed.

    Attributes
    ----------
    target : Path
        Directory of the index.
    request : UpdateRequest
        What it is asked for.
    options : BuildOptions
        The options of the index with those of this update.
    listed : dict of bytes to RootOptions
        The roots, and how they were listed.
    listing : Listing
        What was found.
    are_named : bool
        Whether the roots were given, and not those that the index records.
    unexamined : dict of bytes to str
        Recorded folders that cannot be examined, and why.
    """

    target: Path
    request: UpdateRequest
    options: BuildOptions
    listed: dict[bytes, RootOptions]
    listing: Listing
    are_named: bool
    unexamined: dict[bytes, str]

    @classmethod
    def of(
        cls,
        target: Path,
        roots: PathLike | Sequence[PathLike] | None,
        request: UpdateRequest,
        progress: Progress,
    ) -> UpdatePlan:
        """List the roots of an update; neither the codec nor a row of the index is read for it.

        Parameters
        ----------
        target : Path
            Directory of the index.
        roots : path-like, sequence of path-like, or None
            Folders or images; None for all that the index records.
        request : UpdateRequest
            What the update is asked for.
        progress : Progress
            Where to report progress.

        Raises
        ------
        IndexNotFoundError, CorruptIndexError, FormatVersionError, InvalidInputError, DatasetError
            See `update_index`.
        """
        named = None if roots is None else as_roots(roots)
        store = IndexStore.open(target)
        settings = store.settings.get("metadata", {})
        metadata = ImageMetadata.from_index(settings if isinstance(settings, dict) else {})
        if metadata is None:
            raise no_images(target)
        chosen = _options_of(metadata, store.settings, target, request.options)
        recorded = present_roots(settings, store.path)
        if named is None and not recorded:
            raise InvalidInputError(
                f"{target} records no folder: its images are those of a list, or were added one by "
                "one or by an earlier version, or its folders were forgotten; name its folders: "
                "hyperpq build DIR."
            )
        paths, unexamined = [root.path for root in recorded], {}
        if named is not None:
            paths = named
        else:
            faults = {path: root_fault(path) for path in paths}
            unexamined = {path: fault for path, fault in faults.items() if fault}
        listed = {
            path: _root_options(path, recorded, chosen, request.options)
            for path in paths
            if path not in unexamined
        }
        allow_missing = request.remove_missing or named is None
        listing = _listing(target, listed, chosen, progress, allow_missing)
        if named is not None and not request.allow_empty:
            # A mistyped name; a folder of which the index has images is found out about later.
            for root in listing.empty:
                if not may_exist(root) and not _has_images(store, root):
                    raise missing_root(root)
        return cls(target, request, chosen, listed, listing, named is not None, unexamined)

    def with_options_of_moved(
        self, recorded: Roots, places: Mapping[bytes, bytes], progress: Progress
    ) -> UpdatePlan:
        """The plan with folders that have moved listed as they were at their former place.

        Parameters
        ----------
        recorded : tuple of Root
            The folders that the index records.
        places : mapping of bytes to bytes
            Former and present path of those that have moved.
        progress : Progress
            Where to report progress.
        """
        options = {
            place: _root_options(former, recorded, self.options, self.request.options)
            for former, place in places.items()
            if place in self.listed
        }
        if all(self.listed[place] == chosen for place, chosen in options.items()):
            return self
        listed = {**self.listed, **options}
        listing = _listing(self.target, listed, self.options, progress, allow_missing=True)
        return replace(self, listed=listed, listing=listing)


def _listing(
    target: Path,
    listed: Mapping[bytes, RootOptions],
    options: BuildOptions,
    progress: Progress,
    allow_missing: bool,
) -> Listing:
    """The images below the roots, without those in the directories of the index."""
    place = find_place(target)
    return list_for_build(
        [*listed],
        place.path,
        BuildState(place.working_directory(".building")),
        options,
        progress,
        allow_missing=allow_missing,
        per_root=listed,
    )


def _has_images(store: IndexStore, root: bytes) -> bool:
    """Whether an index has images at or below a path."""
    below = (os.path.join(root, b""),)
    return any(
        is_below(path, below) for rows in RowView(0, store).batches() for path in rows.paths or ()
    )


def _options_of(
    metadata: ImageMetadata, settings: Mapping[str, Any], target: Path, options: BuildChoices
) -> BuildOptions:
    """The options of an index with those of this update."""
    try:
        # `retrain` may have changed the length of the codes.
        bits = settings["M"] * settings["nbits"]
        built = BuildOptions.from_stored({**metadata.options, "bits": bits})
    except (InvalidInputError, KeyError, TypeError) as error:
        raise CorruptIndexError(
            f"{target / 'manifest.json'} holds options of the build that are not valid: {error}"
        ) from error
    if options.get("precision") == "auto":
        # An index has chosen for life.
        options = {**options, "precision": built.precision}
    if options.get("views") == "auto":
        options = {**options, "views": built.views}
    for name, value in sorted(options.items()):
        old = getattr(built, name, None)
        if name == "finetune" and as_finetune(value) != old:
            how = "without fine-tuning" if old is None else "with other settings of fine-tuning"
            raise InvalidInputError(
                f"finetune is given; {target} was built {how}; leave the option out, fine-tune the "
                "index with hyperpq finetune, or build anew with --overwrite."
            )
        if name == "cells" and value != old:
            how = "without cells" if old is None else f"with {old}"
            raise InvalidInputError(
                f"cells is {value}; {target} was built {how}; leave the option out, call "
                "make_cells() of its index in Python, or build anew with --overwrite."
            )
        if name in FIXED_OPTIONS - {"finetune"} and value != old:
            raise InvalidInputError(
                f"{name.replace('_', '-')} is {value}; {target} was built with "
                f"{'that of the recipe' if old is None else old}; leave the option out, or build "
                "anew with --overwrite."
            )
    return replace(built, **options)


def _root_options(
    path: bytes, recorded: Roots, chosen: BuildOptions, options: BuildChoices
) -> RootOptions:
    """How a root is listed: as this update asks for, or as before, or as the index was built."""
    before = next((root for root in recorded if root.path == path), chosen)
    return RootOptions(
        chosen.include_hidden if "include_hidden" in options else before.include_hidden,
        tuple(chosen.exclude if "exclude" in options else before.exclude),
    )
