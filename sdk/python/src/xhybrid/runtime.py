from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _native
from ._core import Closable, StrPath, from_json, options
from ._plugins import announced_directories
from .merges import plugin_paths

_KINDS = {
    _native.XH_PLUGIN_BACKEND: "backend",
    _native.XH_PLUGIN_STAGE: "stage",
    _native.XH_PLUGIN_MERGE: "merge",
    _native.XH_PLUGIN_TEXT: "text",
}


class Plugin(NamedTuple):
    """A plugin that was found."""

    kind: str  #: "backend", "stage", "merge" or "text"
    name: str
    version: str
    license: str
    path: str
    usable: bool  #: False: present, but it cannot run on this host
    options: dict[str, Any]  #: schema of its options, {} when it has none


class Runtime(Closable):
    """The plugins that were found and the device that work runs on. May be used from any thread.

    Args:
        device: name of a backend, ``"cpu"`` or ``"cuda"``; None takes the best found.
        threads: of the cpu backend; None takes every core.
        plugin_path: directories or ``.so`` files searched first, one or several. After them come the merge strategies
            defined in Python (:func:`xhybrid.merge_strategy`), those that installed packages announce (entry points of
            the group ``xhybrid.plugins``), ``XHYBRID_PLUGIN_PATH`` and this package.

    Raises:
        NotFoundError: there is no such device.
        UnsupportedError: the device cannot run on this host; the message says why.

    Models, sessions and jobs opened from it go on working after it is closed.
    """

    def __init__(
        self,
        device: str | None = None,
        threads: int | None = None,
        plugin_path: StrPath | Sequence[StrPath] | None = None,
    ) -> None:
        given = [] if plugin_path is None else plugin_path
        paths = [given] if isinstance(given, str) or hasattr(given, "__fspath__") else list(given)
        path = ":".join([*map(os.fspath, paths), *plugin_paths(), *announced_directories()])
        self._handle = _native.xh_runtime_open((path or None, options(device=device, threads=threads)))

    def report(self) -> dict[str, Any]:
        """What this host can run and why not: cpu, devices, plugins, searched paths, load failures."""
        report: dict[str, Any] = from_json(_native.xh_runtime_report(self._handle))
        return report

    def plugins(self) -> list[Plugin]:
        """Every plugin that was loaded."""
        return [self._plugin(index) for index in range(_native.xh_runtime_plugin_count(self._handle))]

    def _plugin(self, index: int) -> Plugin:
        kind, score, name, version, license, path, schema = _native.xh_runtime_plugin_at(self._handle, index)
        described = from_json(schema) if schema else {}
        return Plugin(_KINDS.get(kind, str(kind)), name, version, license, path, score > 0, described)


_lock = threading.Lock()
_default: Runtime | None = None
_default_strategies: list[str] = []


def default_runtime() -> Runtime:
    """The runtime of calls that name none: opened on first use, and anew when it was closed or a merge strategy was
    defined since."""
    global _default, _default_strategies
    with _lock:
        strategies = plugin_paths()
        if _default is None or _default.closed or _default_strategies != strategies:
            _default, _default_strategies = Runtime(), strategies
        return _default


def handle_of(runtime: Runtime | None) -> Any:
    return (default_runtime() if runtime is None else runtime)._handle
