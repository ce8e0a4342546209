"""The shape of TensorRT 10.3: precision flags, EXPLICIT_BATCH, weak typing unless STRONGLY_TYPED is asked for."""

from enum import IntEnum

from stub_common import *  # noqa: F403
from stub_common import Builder as _Builder
from stub_common import Config, Parser
from stub_common import Runtime as _Runtime

__version__ = "10.3.0.26"

BuilderFlag = IntEnum(
    "BuilderFlag", ["FP16", "BF16", "INT8", "FP8", "TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"]
)
NetworkDefinitionCreationFlag = IntEnum(
    "NetworkDefinitionCreationFlag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
)
HardwareCompatibilityLevel = IntEnum("HardwareCompatibilityLevel", {"NONE": 0, "AMPERE_PLUS": 1})


class IBuilderConfig(Config):
    version = __version__


class Builder(_Builder):
    version = __version__
    platform_has_fast_fp16 = True

    def create_builder_config(self):
        return IBuilderConfig()


class OnnxParser(Parser):
    linear_is_nearest = True
    function_first = True


class Runtime(_Runtime):
    levels = HardwareCompatibilityLevel
