"""Vectors and codes from files of other programs, and to them."""
