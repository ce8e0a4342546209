"""The shape of TensorRT 11.4: no precision flags, no EXPLICIT_BATCH; every network is typed by its file."""

from enum import IntEnum

from stub_common import *  # noqa: F403
from stub_common import Builder as _Builder
from stub_common import Config, Network, Parser
from stub_common import Runtime as _Runtime

__version__ = "11.4.0.106"

BuilderFlag = IntEnum("BuilderFlag", ["TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "STRICT_NANS"])
NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
HardwareCompatibilityLevel = IntEnum(
    "HardwareCompatibilityLevel", {"NONE": 0, "AMPERE_PLUS": 1, "SAME_COMPUTE_CAPABILITY": 2}
)


class IBuilderConfig(Config):
    version = __version__


class Builder(_Builder):
    version = __version__

    def create_network(self, flags=0):
        return Network(flags | 2)

    def create_builder_config(self):
        return IBuilderConfig()


class OnnxParser(Parser):
    pass


class Runtime(_Runtime):
    levels = HardwareCompatibilityLevel
