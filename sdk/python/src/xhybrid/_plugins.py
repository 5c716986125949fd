"""Plugins of other distributions, such as the GPU backend: an entry point of the group ``xhybrid.plugins`` names a
directory (str or path), or a function that gives one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from ._log import logger

GROUP = "xhybrid.plugins"


def _directory(entry: Any) -> str:
    found = entry.load()
    path = os.fspath(found() if callable(found) else found)
    if not isinstance(path, str) or ":" in path:
        raise ValueError(f"{path!r} cannot be searched; allowed: a path without ':'")
    return path


def announced_directories() -> Iterator[str]:
    """One that fails is passed over with a warning: a broken plugin must not keep the others from loading."""
    for entry in metadata.entry_points(group=GROUP):
        try:
            yield _directory(entry)
        except Exception as error:  # whatever its module does
            logger.warning("plugins of entry point %s are passed over: %s", entry.name, error)
