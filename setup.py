"""Only the tag of the wheel: with built libraries in runtime/lib it is for one platform, without for any.

The libraries have a C interface and know no Python, so the tag is py3-none-<platform>.
"""

from pathlib import Path
from shutil import rmtree

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    def run(self) -> None:
        # build/ outlives a build: a library that is gone from runtime/lib would still be packed.
        rmtree(Path(self.build_lib, "posewarp", "runtime", "lib"), ignore_errors=True)
        super().run()


class PlatformWheel(bdist_wheel):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = not any(Path("runtime/lib").glob("*.so"))

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return "py3", "none", platform


setup(cmdclass={"build_py": BuildPy, "bdist_wheel": PlatformWheel})
