"""Benchmarks of hyperpq: one script for each question; `benchmarks/README.md` lists them."""
