"""Builds the C++ kernels; everything else about the package stands in pyproject.toml."""

from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

setup(
    ext_modules=[
        Pybind11Extension(
            "fsfast.kernels._cpu",
            sources=["csrc/bindings.cpp"],
            depends=sorted(glob("csrc/*")),
            include_dirs=["csrc"],
            cxx_std=17,
            # Contraction would give other bits on processors with fused multiply-add than on those without.
            extra_compile_args=["-O3", "-ffp-contract=off", "-pthread"],
            extra_link_args=["-pthread"],
        )
    ]
)
