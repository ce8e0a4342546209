"""Every error that posewarp raises on purpose.

    PosewarpError
    ├── ContractError     an input, or a model's inputs and outputs, are not as promised (also a ValueError)
    ├── CheckpointError   a checkpoint cannot be read, or does not fit the network
    ├── ExportError       a network cannot be written as ONNX, or the file failed its own proof
    ├── EngineError       an engine cannot be built, loaded or run
    ├── PluginError       a plugin library is missing, of the wrong version, or refused
    ├── BackendError      the library or device that was asked for is not there, or failed
    ├── ParityError       two rungs of the ladder differ by more than the tolerance
    └── DataError         a picture, keypoint file or data set cannot be used

A message says what, what was got, what was expected and what to do; the last three are attributes too.
Commands print ``ClassName: message`` on stderr, without a traceback, and exit with 1.
"""


class PosewarpError(Exception):
    """Base of the family.

    Args:
        message: one line that a user can act on.
        got: what was found, if the message speaks of a value.
        expected: what would have been right.
        fix: what to do about it.
    """

    def __init__(self, message: str, *, got: object = None, expected: object = None, fix: str | None = None):
        super().__init__(message)
        self.got = got
        self.expected = expected
        self.fix = fix


class PosewarpWarning(UserWarning):
    """Something of the input was set aside, and the work went on: what, and why."""


class ContractError(PosewarpError, ValueError):
    """An input, or a model's declared inputs and outputs, is not what was promised."""


class CheckpointError(PosewarpError):
    """A checkpoint cannot be read, or does not fit the network."""


class ExportError(PosewarpError):
    """A network cannot be written as ONNX, or the written file failed its own proof."""


class EngineError(PosewarpError):
    """An engine cannot be built, loaded or run."""


class PluginError(PosewarpError):
    """A plugin library is missing, of the wrong version, or refused."""


class BackendError(PosewarpError):
    """The library or device that was asked for is not there, or failed."""


class ParityError(PosewarpError):
    """Two rungs of the ladder differ by more than the tolerance."""


class DataError(PosewarpError):
    """A picture, keypoint file or data set cannot be used."""
