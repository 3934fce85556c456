"""What a build or an update lists below its roots."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperpq.datasets.folder import scan_roots
from hyperpq.datasets.listing import Listing, RootOptions
from hyperpq.errors import DatasetError
from hyperpq.images.build.options import BuildOptions, other_files
from hyperpq.images.build.plan import Plan
from hyperpq.images.build.state import BuildState
from hyperpq.progress import Progress
from hyperpq.store.place import former_of, holds_index
from hyperpq.utils.locations import absolute

if TYPE_CHECKING:
    from hyperpq.images.build.stages import Build


def read_or_list(build: Build) -> Plan:
    """The list of images, which is made once: a resumed build has the same list.

    Raises
    ------
    DatasetError
        If there is no image.
    InvalidInputError
        If a list of paths cannot be read.
    """
    settings: dict[str, object] = {
        "roots": [absolute(root).hex() for root in build.roots],
        "options": build.options.to_stored(),
    }
    if build.listed is not None:
        settings["list"] = build.listed.to_stored()
    plan = build.state.read_plan(settings)
    if plan is not None:
        return plan
    if build.listed is not None:
        found = Listing()
        with build.progress.phase("list", None, "files") as phase:
            files = build.listed.images(found, phase.advance)
            return build.state.write_plan(settings, files, found)
    found = list_for_build(
        build.roots,
        build.place,
        build.state,
        build.options,
        build.progress,
        allow_missing=build.allow_empty,
    )
    if not found.files:
        raise no_image_found(build.roots, found)
    return build.state.write_plan(settings, found.files, found)


def list_for_build(
    roots: Sequence[bytes],
    place: Path,
    state: BuildState,
    options: BuildOptions,
    progress: Progress,
    *,
    allow_missing: bool = False,
    per_root: Mapping[bytes, RootOptions] | None = None,
) -> Listing:
    """List the images below the roots, without those in the directories of the index itself.

    Parameters
    ----------
    roots : sequence of bytes
        Absolute paths of folders or images.
    place : Path
        Directory of the index.
    state : BuildState
        The working directory.
    options : BuildOptions
        What is listed.
    progress : Progress
        Where to report progress.
    allow_missing : bool
        Whether a root may be missing.
    per_root : mapping of bytes to RootOptions, optional
        What is listed below each root, if it is not what ``options`` say.

    Raises
    ------
    DatasetError
        See `datasets.folder.scan_roots`.
    """
    with progress.phase("list", None, "files") as phase:
        listing = scan_roots(
            roots,
            include_hidden=options.include_hidden,
            exclude=options.exclude,
            leave_out=[place, former_of(place), state.path, state.discarded],
            is_left_out=holds_index,
            allow_missing=allow_missing,
            options=per_root,
            on_found=phase.advance,
        )
    return listing


def no_image_found(roots: Sequence[bytes], listing: Listing) -> DatasetError:
    """The error for roots without an image, with what is there instead."""
    names = ", ".join(map(os.fsdecode, roots))
    instead = ""
    if listing.skipped:
        path, reason = min(listing.skipped.items())
        instead += f", {len(listing.skipped)} skipped, such as {os.fsdecode(path)} ({reason})"
    if listing.other:
        instead += f", {other_files(listing.other)}"
    return DatasetError(
        f"no image was found in {names}{instead}; expected JPEG, PNG, WebP, GIF or other images in "
        "or below these folders; check that the disk is mounted, and the patterns of --exclude "
        "and .hyperpqignore."
    )
