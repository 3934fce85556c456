"""`ImageIndex`: search by images, with a backbone, a `HiHPQIndex` and the paths of its images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from hyperpq.errors import InvalidInputError
from hyperpq.filters.where import Where
from hyperpq.images.additions import Added, Additions
from hyperpq.images.decoders import WorkersLike
from hyperpq.images.forget import ForgetReport, forget_paths, forget_where
from hyperpq.images.image_reader import ImageReader
from hyperpq.images.listing import PathLike
from hyperpq.images.sources import ImageLike
from hyperpq.progress import ProgressLike

if TYPE_CHECKING:
    from hyperpq.images.build.options import BuildReport
    from hyperpq.images.finetuning import FinetuneReport
    from hyperpq.images.relearning import Relearn
    from hyperpq.training.finetune_settings import FinetuneSettings


class ImageIndex(ImageReader):
    """An index of images, opened from the directory that `build_index` wrote.

    Parameters
    ----------
    index : HiHPQIndex
        An index of images.
    backbone : Backbone, optional
        The network that the index was built with; loaded when it is first needed by default.

    Attributes
    ----------
    index : HiHPQIndex
        Codes and codec.
    backbone_identity : dict
        Network, weights and preprocessing that the features come from.
    max_megapixels : float
        Larger images are skipped.

    Raises
    ------
    InvalidInputError
        If the index is not one of images.
    BackboneError
        If the index was built with another network.
    """

    def update(
        self,
        roots: PathLike | Sequence[PathLike] | None = None,
        *,
        remove_missing: bool = True,
        allow_empty: bool = False,
        relearn: Relearn = "auto",
        workers: WorkersLike = 0,
        progress: ProgressLike = None,
    ) -> BuildReport:
        """Bring the index up to date with folders: add, replace and remove images.

        Parameters
        ----------
        roots : path-like or sequence of path-like, optional
            Folders or images; those that the index has recorded by default.
        remove_missing : bool
            Whether to remove images whose files are gone, see `update_index`.
        allow_empty : bool
            Whether a folder may have no images any more, or be gone, see `update_index`.
        relearn : {"auto", "never", "now"}
            Whether the codec is learned again, see `update_index`.
        workers : int or str
            Number of workers that decode images, 0 for one per core; or their kind:
            ``"threads"``, ``"processes"`` or ``"device"`` (the GPU decodes JPEG files), also with
            their number, such as ``"processes:8"``. By default processes read many files for a
            network on a GPU, and threads everything else.
        progress : Progress or bool, optional
            Where to report progress; True draws bars on stderr.

        Returns
        -------
        BuildReport

        Raises
        ------
        InvalidInputError, DatasetError, StoreError
            See `update_index`.
        """
        from hyperpq.images.build.update import update_images

        return update_images(
            self,
            roots,
            remove_missing=remove_missing,
            allow_empty=allow_empty,
            relearn=relearn,
            workers=workers,
            progress=progress,
        )

    def add(
        self,
        images: ImageLike | Iterable[ImageLike | Iterable[ImageLike]],
        names: str | Iterable[str | None] | None = None,
        *,
        workers: WorkersLike = 0,
        progress: ProgressLike = None,
    ) -> Added:
        """Encode images and add them, without listing a folder.

        Parameters
        ----------
        images : image or iterable of images
            Images of every kind that `query` takes. Those of an iterator, whose items are images or
            batches of images, need not be in memory together: 4,096 are asked for at a time.
        names : str or iterable of str, optional
            What the index calls the images: the ``path`` of results. An image that is given by its
            path has that as its name by default; all others need one. A name that is no absolute
            path stands for an image without a file, which no update removes. No name begins with
            ``:/``.
        workers : int or str
            Number of workers that decode images, 0 for one per core; or their kind:
            ``"threads"``, ``"processes"`` or ``"device"`` (the GPU decodes JPEG files), also with
            their number, such as ``"processes:8"``. By default processes read many files for a
            network on a GPU, and threads everything else.
        progress : Progress or bool, optional
            Where to report progress; True draws bars on stderr.

        Returns
        -------
        Added
            The ids of the images, and why some could not be read.

        Raises
        ------
        InvalidInputError
            If something is no image, or an image has no name, or that of another one. Nothing was
            added, or the complete transactions of an iterator.
        StoreError
            If the system refuses to write.

        Notes
        -----
        An image whose name the index has already takes the place of the one with that name, and has
        a new id; in an iterator that may be one of an earlier transaction. A file that has not
        changed is not read again, and keeps its id. Each 4,096 images are added in one transaction.
        The codec stays as it is. One warning says that `retrain`
        would be of use: when there are more than twice as many images as the codec was learned
        from, or 160 and it was learned from fewer, in an index that has a record of that (with kept
        features and a codec of its own). It does not depend on what the images show.
        """
        return Additions(self, images, names).add(workers, progress)

    def remove(
        self,
        below: PathLike | Sequence[PathLike] | None = None,
        *,
        ids: ArrayLike | None = None,
        where: str | Where | None = None,
    ) -> int:
        """Remove images from the index, in one transaction; no file is touched.

        Parameters
        ----------
        below : path-like or sequence of path-like, optional
            Folders or images, which need not exist any more: the images at or below them are
            removed, as by `forget`.
        ids : array_like of int, optional
            Instead of ``below``, ids of images; those that the index does not have are ignored.
        where : str or Where, optional
            Instead of ``below``, a condition, see `query`. With ``ids`` both must hold.

        Returns
        -------
        int
            Number of images removed.

        Raises
        ------
        InvalidInputError
            If nothing is given, or the index has no image at or below one of the paths; nothing was
            changed.
        """
        if below is None and ids is None and where is None:
            raise InvalidInputError(
                "neither below, ids nor where is given; expected the images to remove."
            )
        if below is None:
            return self.index.remove_ids(ids, where=where)
        if ids is not None or where is not None:
            raise InvalidInputError("below is given with ids or where; expected one of them.")
        return forget_paths(self.index, below, missing=False).removed

    def forget(
        self,
        paths: PathLike | Sequence[PathLike] | None = None,
        *,
        missing: bool = False,
        where: str | Where | None = None,
        progress: ProgressLike = None,
    ) -> ForgetReport:
        """Remove folders with their images, or images whose files are gone, in one transaction.

        No file is touched. `remove` does the same, without a report.

        Parameters
        ----------
        paths : path-like or sequence of path-like, optional
            Folders or images, which need not exist any more: the images at or below them are
            removed, and `update` does not look into the folders any more. Images that are below
            another recorded folder, too, are added again by its next update.
        missing : bool
            Whether to remove only images whose files are gone, of ``paths`` or of the whole index.
            A recorded folder that does not exist any more is forgotten with them. An image is kept
            whose file may be on a disk that is not mounted: if the file system that its recorded
            folder was on is not mounted, if the system does not say that it is gone, if it is at or
            below a broken link, or if the deepest folder of its path that exists is empty. One that
            was added without a file is kept, too.
        where : str or Where, optional
            Instead of the others, a condition on the images to remove, see `query`.
        progress : Progress or bool, optional
            Where to report progress; True draws bars on stderr.

        Returns
        -------
        ForgetReport

        Raises
        ------
        InvalidInputError
            If nothing is given, the condition is not valid, or the index has nothing at or below
            one of the paths; nothing was changed.
        """
        if where is not None:
            if paths is not None or missing:
                raise InvalidInputError(
                    "where is given with paths or missing; expected one of them."
                )
            return forget_where(self.index, where)
        if paths is None and not missing:
            raise InvalidInputError(
                "neither paths, missing nor where is given; expected folders or images, "
                "missing=True, or a condition."
            )
        return forget_paths(self.index, paths, missing=missing, progress=progress)

    def retrain(self, *, seed: int = 0, progress: ProgressLike = None, **changes: Any) -> None:
        """Learn the codec again from the kept features, and encode all images anew, in one commit.

        No image is decoded. Queries that run meanwhile show the former codes.

        Parameters
        ----------
        seed : int
            Of every random choice.
        progress : Progress or bool, optional
            Where to report progress; True draws bars on stderr.
        **changes
            Other arguments of `HiHPQIndex.retrain`, such as ``bits=32``.

        Raises
        ------
        InvalidInputError, TrainingError, StoreError
            See `HiHPQIndex.retrain`; nothing was changed.
        """
        self.index.retrain(seed=seed, progress=progress, **changes)

    def finetune(
        self,
        settings: FinetuneSettings | float | None = None,
        *,
        train_size: int | None = None,
        workers: WorkersLike = 0,
        resume: bool = False,
        restart: bool = False,
        progress: ProgressLike = None,
    ) -> FinetuneReport:
        """Fine-tune the network on the images of the index, and encode these again, in one commit.

        No label is needed. The index is then searched, and images are added, by the tuned network.
        Queries that run meanwhile are answered by the former one, and ids stay.

        Parameters
        ----------
        settings : FinetuneSettings or float, optional
            Settings, or only a number of minutes. Without a limit it takes minutes on a GPU, and
            hours or days on a CPU.
        train_size : int, optional
            Largest number of images to learn from; as the index was built by default.
        workers : int or str
            How images are decoded, see `build_index`.
        resume, restart : bool
            Whether to continue a call that was interrupted, or to start again.
        progress : Progress or bool, optional
            Where to report progress; True draws bars on stderr.

        Returns
        -------
        FinetuneReport

        Raises
        ------
        InvalidInputError, BackboneError, DatasetError, TrainingError, StoreError
            See `finetune_index`; nothing was changed.
        """
        from hyperpq.images.finetuning import finetune_images

        return finetune_images(
            self,
            settings,
            train_size=train_size,
            workers=workers,
            resume=resume,
            restart=restart,
            progress=progress,
        )
