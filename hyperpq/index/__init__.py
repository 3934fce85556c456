"""Indexes in the manner of FAISS: train, add, search, save."""
