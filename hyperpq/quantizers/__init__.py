"""Codebooks: vectors to codes, distance tables and back; and how codebooks are fitted."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
