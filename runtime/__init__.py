"""The lean layer that runs exported models: stdlib, numpy, pillow; a backend's library when a model opens.

What a user needs is named here, and imported from its module at first use, so that reading an error class or
printing a command's help does not wait for numpy.
"""

from importlib import import_module

_MODULES = {
    "contract": ("Contract", "TensorSpec"),
    "draw": ("draw_skeleton", "flow_to_colors", "panel"),
    "engine_options": ("EngineOptions",),
    "errors": (
        "BackendError",
        "CheckpointError",
        "ContractError",
        "DataError",
        "EngineError",
        "ExportError",
        "ParityError",
        "PluginError",
        "PosewarpError",
        "PosewarpWarning",
    ),
    "fit": ("Fit",),
    "image": ("from_tensor", "read_image", "to_tensor", "write_image"),
    "keypoint_files": ("parse_keypoints", "read_keypoints", "read_people"),
    "keypoint_writers": ("write_keypoints",),
    "keypoints": ("KEYPOINT_NAMES", "LIMBS", "check_keypoints", "to_heatmaps"),
    "pipeline": ("PoseTransfer",),
    "pose_detection": ("PoseDetector",),
    "session": ("Session",),
    "split_session": ("SplitSession",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
