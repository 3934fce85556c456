"""Tables and codes in, exact top-k out.

`search_parts` is the one function that the index calls; `search` is its face for one array.
"""

from hyperpq.scan.reference import Part, search, search_parts

__all__ = ["Part", "levels", "search", "search_parts"]


def levels() -> dict[str, str]:
    """Kernels that can run here and the one in use."""
    return {"numpy": "in use"}
