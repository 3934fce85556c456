"""Helpers that know nothing of retrieval.

`validation` checks arguments, `devices` chooses devices and numbers of threads, `cgroups` reads the
limits of a container, `files` writes durably and reads with checks, `imports` loads optional
packages, and `exact_matmul` multiplies matrices independently of the batch and the processor.
"""
