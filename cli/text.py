"""Names of files as text for people (`quoted`, `word`, `escaped`) and for JSON (`name`)."""

from __future__ import annotations

from hyperpq.utils.json_text import for_json as for_json
from hyperpq.utils.json_text import path_text as name
from hyperpq.utils.shown_names import escaped as escaped
from hyperpq.utils.shown_names import quoted as quoted
from hyperpq.utils.shown_names import word as word

__all__ = ["escaped", "for_json", "name", "quoted", "word"]
