"""Builds the C++ kernels; everything else about the package stands in pyproject.toml."""

from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

FLAGS = ["-O3", "-pthread"]
# Contraction would give other bits on processors with fused multiply-add than on those without. Nobody reads the
# floating-point exception flags: without the second option, GCC leaves clamps and conversions scalar.
EXACT = ["-ffp-contract=off", "-fno-trapping-math"]


def extension(name: str, source: str, *flags: str) -> Pybind11Extension:
    """Return one of the package's two extensions."""
    return Pybind11Extension(
        name,
        sources=[source],
        depends=sorted(glob("csrc/**/*", recursive=True)),
        include_dirs=["csrc"],
        cxx_std=17,
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=["-pthread"],
    )


if __name__ == "__main__":
    setup(
        ext_modules=[
            extension("fsfast.kernels._cpu", "csrc/bindings.cpp", *EXACT),
            extension("fsfast._processor", "csrc/processor.cpp"),
        ]
    )
