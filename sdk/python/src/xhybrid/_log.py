"""The library's log messages as records of the logger ``xhybrid`` (children by origin: ``xhybrid.core``).

They arrive with the end of the call during which they were written, on the thread that made it.
"""

from __future__ import annotations

import atexit
import logging

from . import _native

logger = logging.getLogger("xhybrid")

_LEVELS = {
    _native.XH_LOG_DEBUG: logging.DEBUG,
    _native.XH_LOG_INFO: logging.INFO,
    _native.XH_LOG_WARNING: logging.WARNING,
    _native.XH_LOG_ERROR: logging.ERROR,
}


def _receive(messages: list[tuple[int, str, str]]) -> None:
    for level, origin, text in messages:
        logger.getChild(origin).log(_LEVELS.get(level, logging.INFO), "%s", text)


def install() -> None:
    logger.addHandler(logging.NullHandler())  # a library is silent unless its user says otherwise
    _native.set_log_receiver(_receive)
    atexit.register(_native.drain_log)
