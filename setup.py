"""Only the tag of the wheel: with built libraries in runtime/lib it is for one platform, without for any.

The libraries have a C interface and know no Python, so the tag is py3-none-<platform>.
"""

from pathlib import Path
from shutil import rmtree

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py


class WithLibraries(Distribution):
    def has_ext_modules(self) -> bool:
        return any(Path("runtime/lib").glob("*.so"))


class BuildPy(build_py):
    def run(self) -> None:
        # build/ outlives a build: a library that is gone from runtime/lib would still be packed.
        rmtree(Path(self.build_lib, "posewarp", "runtime", "lib"), ignore_errors=True)
        super().run()


class AnyPython(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(distclass=WithLibraries, cmdclass={"build_py": BuildPy, "bdist_wheel": AnyPython})
