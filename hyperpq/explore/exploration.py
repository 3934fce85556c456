"""`Exploration`: all that is shown of an index at one moment, each part made once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hyperpq.explore.codewords import CodewordDisk, codeword_disks
from hyperpq.explore.layout import Layout
from hyperpq.explore.tree import Tree
from hyperpq.progress import ProgressLike
from hyperpq.utils.forks import ForkSafeLock

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView


class Exploration:
    """Tree, map and codewords of an index at one moment.

    Each is made when it is first asked for, and other threads that ask meanwhile wait for it. A
    server keeps one object for each snapshot of its index.

    Parameters
    ----------
    view : IndexView
        The index at one moment, as `HiHPQIndex.view` returns it.
    levels, seed, progress
        See `Tree.of`.

    Attributes
    ----------
    view : IndexView
        As given.
    """

    def __init__(
        self,
        view: IndexView,
        levels: Sequence[int] | None = None,
        *,
        seed: int = 0,
        progress: ProgressLike = None,
    ) -> None:
        self.view = view
        self._levels, self._seed, self._progress = levels, seed, progress
        self._making = ForkSafeLock()
        self._tree: Tree | None = None
        self._layout: Layout | None = None
        self._disks: list[CodewordDisk] | None = None

    @property
    def tree(self) -> Tree:
        """The rows in nested clusters."""
        with self._making:
            if self._tree is None:
                self._tree = Tree.of(
                    self.view, self._levels, seed=self._seed, progress=self._progress
                )
            return self._tree

    @property
    def layout(self) -> Layout:
        """The map of the tree."""
        tree = self.tree
        with self._making:
            if self._layout is None:
                self._layout = Layout.of(tree)
            return self._layout

    @property
    def disks(self) -> list[CodewordDisk]:
        """The codewords of each subspace."""
        with self._making:
            if self._disks is None:
                self._disks = codeword_disks(self.view)
            return self._disks
