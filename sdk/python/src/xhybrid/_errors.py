"""One exception class for each code of the C interface."""

from __future__ import annotations

from . import _native


class Error(Exception):
    """What every failing call raises.

    ``code`` is an integer of the C interface (``Error.code`` 3 is NOT_FOUND), ``message`` one line: what, where, the
    value, what is allowed. ``origin`` says who raised it: ``"core"``, ``"cpu"``, ``"merge.ties"``, or ``"python"`` for
    what this package refuses itself.
    """

    def __init__(self, code: int, message: str, origin: str) -> None:
        super().__init__(code, message, origin)
        self.code = code
        self.message = message
        self.origin = origin

    def __str__(self) -> str:
        return f"{self.origin}: {self.message}"


class InvalidArgumentError(Error, ValueError):
    """Something that is not allowed was passed."""


class InvalidStateError(Error):
    """The object cannot do this now: it is closed, in use, finished, or has not read a token."""


class NotFoundError(Error, LookupError):
    """A file, tensor, plugin or name does not exist."""


class UnsupportedError(Error):
    """Valid, but this build, plugin or device cannot do it."""


class OutOfMemoryError(Error, MemoryError):
    """Host or device memory is used up; the call can be made again."""


class IoError(Error):
    """The operating system refused a read or write; the message has its reason."""


class CorruptError(Error):
    """Stored bytes are damaged or malformed."""


class IncompatibleError(Error):
    """Well formed, but of another version, architecture or vocabulary."""


class DeviceLostError(Error):
    """The device failed for good; close the runtime and open another."""


class CancelledError(Error):
    """A job was cancelled; the message says how to resume."""


class InternalError(Error):
    """A defect of the library: please report it with the message."""


_native.set_error_types(
    {
        _native.XH_INVALID_ARGUMENT: InvalidArgumentError,
        _native.XH_INVALID_STATE: InvalidStateError,
        _native.XH_NOT_FOUND: NotFoundError,
        _native.XH_UNSUPPORTED: UnsupportedError,
        _native.XH_OUT_OF_MEMORY: OutOfMemoryError,
        _native.XH_IO: IoError,
        _native.XH_CORRUPT: CorruptError,
        _native.XH_INCOMPATIBLE: IncompatibleError,
        _native.XH_DEVICE_LOST: DeviceLostError,
        _native.XH_CANCELLED: CancelledError,
        _native.XH_INTERNAL: InternalError,
    }
)
