"""The compiled parts; everything else about the package is in setup.cfg.

The compiler gets no option for an instruction set: the sources compile each of them, and one is
chosen at run time. Without a C++17 compiler the package installs all the same, and numpy does what
they do.
"""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup


def extension(name: str, source: str) -> Pybind11Extension:
    """A module that is left out where it cannot be compiled."""
    included = [*Path(source).parent.glob("*.h"), *Path(source).parent.glob("*.inl")]
    return Pybind11Extension(
        name,
        [source],
        depends=[str(path) for path in included],
        cxx_std=17,
        extra_compile_args=["-O3", "-fno-math-errno"],
        extra_link_args=["-pthread"],
        optional=True,
    )


setup(
    ext_modules=[
        extension("hyperpq.scan._native", "hyperpq/scan/native/binding.cpp"),
        extension("hyperpq.utils._native", "hyperpq/utils/native/products.cpp"),
    ]
)
