"""Builds the C++ kernels, and puts export/ into wheels; everything else about the package stands in pyproject.toml."""

from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_py import build_py

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


class WithExport(build_py):
    """Copies export/ as `fsfast.export`: nothing called plainly "export" belongs beside other people's packages.

    An editable install copies nothing; there `fsfast export` finds the folder of the clone.
    """

    def finalize_options(self) -> None:
        """Add the package; setuptools asks for this method."""
        super().finalize_options()
        if not self.editable_mode:
            self.packages = [*self.packages, "fsfast.export"]
            self.package_dir = {**self.package_dir, "fsfast.export": "export"}
            self.package_data = {
                **self.package_data,
                "fsfast.export": ["recipes/*.toml", "class_names/*.txt"],
            }


if __name__ == "__main__":
    setup(
        cmdclass={"build_py": WithExport},
        ext_modules=[
            extension("fsfast.kernels._cpu", "csrc/bindings.cpp", *EXACT),
            extension("fsfast._processor", "csrc/processor.cpp"),
        ],
    )
