"""The compiled scan; everything else about the package is in setup.cfg.

The compiler gets no option for an instruction set: the sources compile each of them, and the scan
chooses one when it runs. Without a C++17 compiler the package installs all the same, and numpy does
the scan.
"""

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

setup(
    ext_modules=[
        Pybind11Extension(
            "hyperpq.scan._native",
            ["hyperpq/scan/native/binding.cpp"],
            cxx_std=17,
            extra_compile_args=["-O3", "-fno-math-errno"],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]
)
