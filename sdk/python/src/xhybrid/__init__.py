"""Distils transformer LLMs into hybrid xLSTM students: the Python package of libxhybrid.

    import xhybrid

    model = xhybrid.Model.load("student.xhy")
    print(model.generate([{"role": "user", "content": "What is 7 times 5?"}]))

Everything that can fail raises :class:`Error`, which has a code, a message and an origin. Computing calls release the
GIL. Objects may be closed early with ``close()`` or ``with``; a closed one refuses further calls.
"""

from __future__ import annotations

from . import _log
from ._core import abi_version, release
from ._errors import (
    CancelledError,
    CorruptError,
    DeviceLostError,
    Error,
    IncompatibleError,
    InternalError,
    InvalidArgumentError,
    InvalidStateError,
    IoError,
    NotFoundError,
    OutOfMemoryError,
    UnsupportedError,
)
from .checkpoint import Checkpoint, Tensor
from .job import Job
from .jobs import distill, evaluate, export, import_model, merge, plan, probe, schema
from .merges import merge_strategies, merge_strategy
from .model import Model
from .report import Report
from .runtime import Plugin, Runtime, default_runtime
from .session import Batch, Session, Token

_log.install()

__version__ = release()

__all__ = [
    "Batch",
    "CancelledError",
    "Checkpoint",
    "CorruptError",
    "DeviceLostError",
    "Error",
    "IncompatibleError",
    "InternalError",
    "InvalidArgumentError",
    "InvalidStateError",
    "IoError",
    "Job",
    "Model",
    "NotFoundError",
    "OutOfMemoryError",
    "Plugin",
    "Report",
    "Runtime",
    "Session",
    "Tensor",
    "Token",
    "UnsupportedError",
    "abi_version",
    "default_runtime",
    "distill",
    "evaluate",
    "export",
    "import_model",
    "merge",
    "merge_strategies",
    "merge_strategy",
    "plan",
    "probe",
    "release",
    "schema",
]
