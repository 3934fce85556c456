"""The compiled scan; everything else about the package is in setup.cfg.

No instruction set is asked for: each is compiled for itself, and the one that this processor has
is chosen when the scan runs. Without a C++17 compiler the package installs all the same and scans
by numpy.
"""

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

setup(
    ext_modules=[
        Pybind11Extension(
            "hyperpq.scan._native",
            ["hyperpq/scan/native/binding.cpp"],
            cxx_std=17,
            extra_compile_args=["-O3"],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]
)
