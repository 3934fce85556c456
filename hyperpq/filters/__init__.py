"""Which rows a search looks at: conditions on attributes, and sets of ids."""
