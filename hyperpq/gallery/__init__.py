"""Results to look at: a page for a browser, one image of them, and a terminal.

`write_page` writes one HTML file with thumbnails in it, `write_contact_sheet` one image, and
`print_preview` prints to a terminal. Each is given sections: a query with its results.
"""

from hyperpq.utils.imports import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
