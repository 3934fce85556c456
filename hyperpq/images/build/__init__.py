"""Building an index of the images below folders, in stages each of which survives a kill.

`build_index` builds an index or brings it up to date, `update_index` only does the latter; both
take the fields of `BuildOptions` as keywords and return an `ImageIndex` with a `BuildReport`.
`working_directory` says where an unfinished build keeps its files.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
