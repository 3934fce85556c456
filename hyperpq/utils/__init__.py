"""Small helpers that know nothing of retrieval: validation, devices, files, optional packages."""
