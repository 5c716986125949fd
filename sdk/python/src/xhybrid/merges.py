"""Merge strategies written in Python: a function over NumPy arrays, known to every merge by its name.

::

    @xhybrid.merge_strategy("midpoint", options={"share": 0.5}, models=(2, 2), elementwise=True)
    def midpoint(models, base, options):
        first, second = models
        return first + np.float32(options["share"]) * (second - first)

    xhybrid.merge(["a.xhy", "b.xhy"], method="midpoint", options={"share": 0.25}, output="c.xhy")

It goes through the same C table as the strategies of the library, so that recipes, history, checks and cancelling are
theirs. A runtime sees the strategies that were defined before it was opened.
"""

from __future__ import annotations

import atexit
import ctypes
import inspect
import itertools
import json
import logging
import os
import pathlib
import re
import shutil
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Callable, TypeVar

import numpy as np

__all__ = ["merge_strategies", "merge_strategy", "plugin_paths"]

Strategy = TypeVar("Strategy", bound=Callable[..., "np.ndarray[Any, Any]"])

_log = logging.getLogger("xhybrid.merge")

# Of xhybrid.h and xhybrid_plugin.h.
_INVALID_ARGUMENT, _OUT_OF_MEMORY, _CANCELLED = 1, 5, 10
_OPTION_TEXT, _OPTION_INT, _OPTION_REAL, _OPTION_BOOL = 1, 2, 3, 4
_ELEMENTWISE, _NEEDS_BASE = 1, 2
_DONE = 1  # merge_bridge.c

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_TYPES = ("text", "int", "real", "bool", "reals")


class _Option(ctypes.Structure):
    _fields_ = [
        ("key", ctypes.c_char_p),
        ("text", ctypes.c_char_p),
        ("integer", ctypes.c_int64),
        ("real", ctypes.c_double),
        ("kind", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    ]


_FloatArray = ctypes.POINTER(ctypes.c_float)
_Message = ctypes.POINTER(ctypes.c_char)  # c_char_p would arrive as a copy
_Open = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.POINTER(_Option),
    ctypes.c_int64,
    ctypes.c_int32,
    ctypes.POINTER(ctypes.c_int64),
    _Message,
    ctypes.c_int64,
)
_Combine = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.c_int64,
    ctypes.c_char_p,
    ctypes.POINTER(_FloatArray),
    _FloatArray,
    ctypes.c_int64,
    _FloatArray,
    _Message,
    ctypes.c_int64,
)
_Close = ctypes.CFUNCTYPE(None, ctypes.c_int64)


class _Bridge(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("traits", ctypes.c_uint32),
        ("min_models", ctypes.c_int32),
        ("max_models", ctypes.c_int32),
        ("name", ctypes.c_char_p),
        ("origin", ctypes.c_char_p),
        ("options_schema", ctypes.c_char_p),
        ("open", _Open),
        ("combine", _Combine),
        ("close", _Close),
        ("interrupt", ctypes.c_void_p),
    ]


def merge_strategy(
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    models: tuple[int, int | None] = (2, None),
    needs_base: bool = False,
    elementwise: bool = False,
) -> Callable[[Strategy], Strategy]:
    """Makes a function a merge strategy of every runtime that is opened from now on.

    The function is called as ``function(models, base, options)``, with ``name=`` (the tensor's) too where it has a
    parameter of that name, for each tensor in turn:

    - ``models``: a list of float32 arrays of shape ``[n]``, one a model: the tensor's elements in row-major order
    - ``base``: the same of the model that they began from, or None
    - ``options``: a dict with every option of the strategy
    - returns: a float32 array of shape ``[n]``; any other shape or dtype is refused

    The arrays are copies that the function may keep and write to. What it raises ends the merge, as `xhybrid.Error`
    with the exception's text and origin ``"merge.NAME"``; the traceback is a debug record of the logger
    ``xhybrid.merge``.

    Args:
        name: in recipes and on the command line of this process; lower case, digits, ``_``, ``-`` and ``.``. The last
            definition of a name counts, before a strategy of the library too.
        options: for each option its default, or a dict with ``type`` ("text", "int", "real", "bool", "reals"),
            ``default``, ``min``, ``max``, ``choices`` and ``help`` as in xhybrid_plugin.h. Without a default it has to
            be given. Values are checked before a tensor is read.
        models: fewest and most models; None for any number.
        needs_base: refuse a merge without a base.
        elementwise: each element of the result depends on the same element of the models alone. Then ``n`` may be a
            part of the tensor, and the function is called from several threads, one at a time unless NumPy lets go of
            the GIL. Otherwise it sees whole tensors, on one thread.

    Raises:
        ValueError: a name, option or number of models that is not allowed.
    """
    schema = _schema(options or {})
    fewest, most = models
    if not _NAME.fullmatch(name):
        raise ValueError(f"merge strategy name is {name!r}; allowed: lower case, digits, '_', '-' and '.'")
    if fewest < 1 or (most is not None and most < fewest):
        raise ValueError(f"merge strategy {name!r} takes {fewest} to {most} models; allowed: 1 or more, in order")

    def register(function: Strategy) -> Strategy:
        traits = (_ELEMENTWISE if elementwise else 0) | (_NEEDS_BASE if needs_base else 0)
        _library.add(_Callbacks(name, function, schema), traits, fewest, most or 0)
        return function

    return register


def merge_strategies() -> list[str]:
    """Names of the strategies defined in Python, the latest first."""
    return [name for name, _ in _library.plugins()]


def plugin_paths() -> list[str]:
    """The plugins that carry the strategies, the latest first: what a runtime adds to its plugin path."""
    return [path for _, path in _library.plugins()]


class _Callbacks:
    """What the bridge calls for one strategy. Nothing is raised here: all of it arrives as a code and a text."""

    def __init__(self, name: str, function: Callable[..., np.ndarray[Any, Any]], schema: Sequence[Mapping[str, Any]]):
        self.name = name
        self.schema = schema
        self._function = function
        self._types = {option["name"]: option["type"] for option in schema}
        self._wants_name = "name" in inspect.signature(function).parameters
        self._merges: dict[int, tuple[int, Mapping[str, Any]]] = {}  # model count and options of each open merge
        self._handles = itertools.count(1)

    def open(self, options: Any, count: int, model_count: int, merge: Any, message: Any, message_bytes: int) -> int:
        def body() -> None:
            handle = next(self._handles)
            given = [options[i] for i in range(count)]
            values = {option.key.decode(): _value(option, self._types) for option in given}
            self._merges[handle] = (model_count, values)
            merge[0] = handle

        return self._guarded(body, message, message_bytes)

    def combine(
        self, merge: int, name: bytes, models: Any, base: Any, n: int, out: Any, message: Any, message_bytes: int
    ) -> int:
        def body() -> None:
            model_count, options = self._merges[merge]
            keywords = {"name": name.decode()} if self._wants_name else {}
            # Copies: the core's memory is gone after the call, and a function may keep what it was given.
            arrays = [np.ctypeslib.as_array(models[i], (n,)).copy() for i in range(model_count)]
            start = np.ctypeslib.as_array(base, (n,)).copy() if base else None
            result = self._function(arrays, start, dict(options), **keywords)
            self._check(result, n, name.decode())
            np.ctypeslib.as_array(out, (n,))[:] = result

        return self._guarded(body, message, message_bytes)

    def close(self, merge: int) -> None:
        self._merges.pop(merge, None)

    @staticmethod
    def _check(result: Any, n: int, tensor: str) -> None:
        if not isinstance(result, np.ndarray):
            raise _Refused(f"tensor {tensor!r}: the function returned {type(result).__name__}; allowed: a NumPy array")
        if result.dtype != np.float32:
            raise _Refused(f"tensor {tensor!r}: the function returned {result.dtype}; allowed: float32")
        if result.shape != (n,):
            raise _Refused(f"tensor {tensor!r}: the function returned shape {list(result.shape)}; allowed: [{n}]")

    def _guarded(self, body: Callable[[], None], message: Any, message_bytes: int) -> int:
        try:
            body()
            return _DONE
        except _Refused as refused:
            return _failure(_INVALID_ARGUMENT, str(refused), message, message_bytes)
        except MemoryError:
            return _failure(_OUT_OF_MEMORY, "out of memory in the function", message, message_bytes)
        except KeyboardInterrupt:
            return _failure(_CANCELLED, "interrupted", message, message_bytes)  # the bridge has it raised again
        except BaseException as error:  # SystemExit too: a library must not end because of what it calls
            _log.debug("merge strategy %s failed", self.name, exc_info=True)
            return _failure(_INVALID_ARGUMENT, _shown(error), message, message_bytes)


class _Refused(Exception):
    pass


def _shown(error: BaseException) -> str:
    """One line: what was raised, and where."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)
    where = [frame for frame in frames if frame.filename != __file__] or frames
    return f"{text} ({os.path.basename(where[-1].filename)}, line {where[-1].lineno})"


def _failure(code: int, text: str, message: Any, message_bytes: int) -> int:
    encoded = text.encode("utf-8", "replace")[: message_bytes - 1]
    encoded = encoded.decode("utf-8", "ignore").encode()  # no half character at the cut
    ctypes.memmove(message, encoded + b"\0", len(encoded) + 1)
    return -code


def _value(option: _Option, types: Mapping[str, str]) -> Any:
    if option.kind == _OPTION_BOOL:
        return bool(option.integer)
    if option.kind == _OPTION_INT:
        return float(option.integer) if types[option.key.decode()] == "real" else option.integer
    if option.kind == _OPTION_REAL:
        return option.real
    text = option.text.decode()
    if types[option.key.decode()] != "reals":
        return text
    return [float(item) for item in text.split(",")] if text else []


def _schema(options: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The list "options" of a schema, types inferred from defaults where none are given."""
    schema = []
    for name, given in options.items():
        entry = dict(given) if isinstance(given, Mapping) else {"default": given}
        entry.setdefault("type", _type_of(name, entry.get("default")))
        if entry["type"] not in _TYPES:
            raise ValueError(f"option {name!r} has type {entry['type']!r}; allowed: {', '.join(_TYPES)}")
        unknown = entry.keys() - {"type", "default", "min", "max", "choices", "help"}
        if unknown:
            raise ValueError(f"option {name!r} has {', '.join(sorted(unknown))}; see xhybrid_plugin.h")
        schema.append({"name": name, **entry})
    return schema


def _type_of(name: str, default: Any) -> str:
    for kind, python in (("bool", bool), ("int", int), ("real", float), ("text", str), ("reals", (list, tuple))):
        if isinstance(default, python):
            return kind
    raise ValueError(f"option {name!r} has the default {default!r}; allowed: a text, number, truth value or list")


class _Library:
    """The copies of the bridge in this process, one a strategy."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: list[tuple[_Callbacks, str, ctypes.CDLL, _Bridge]] = []  # never freed: the core keeps pointers
        self._directory: pathlib.Path | None = None
        self._process = os.getpid()

    def plugins(self) -> Sequence[tuple[str, str]]:
        """Name and file of each strategy, the latest first and each name once."""
        with self._lock:
            latest = {callbacks.name: path for callbacks, path, _, _ in self._loaded}
            return [(name, latest[name]) for name in reversed(latest)]

    def add(self, callbacks: _Callbacks, traits: int, min_models: int, max_models: int) -> None:
        bridge = _Bridge(
            ctypes.sizeof(_Bridge),
            traits,
            min_models,
            max_models,
            callbacks.name.encode(),
            f"merge.{callbacks.name}".encode(),
            json.dumps({"options": callbacks.schema}).encode(),
            _Open(callbacks.open),
            _Combine(callbacks.combine),
            _Close(callbacks.close),
            ctypes.cast(ctypes.pythonapi.PyErr_SetInterrupt, ctypes.c_void_p),
        )
        with self._lock:
            path = str(self._own_directory() / f"{len(self._loaded):04}-{callbacks.name}.so")
            shutil.copyfile(pathlib.Path(__file__).with_name("_merge_bridge.so"), path)
            library = ctypes.CDLL(path)
            if library.xh_bridge_set(ctypes.byref(bridge)) != 0:
                raise RuntimeError(f"{path} is of another release than this package")
            self._loaded.append((callbacks, path, library, bridge))

    def _own_directory(self) -> pathlib.Path:
        if self._directory is None:
            self._directory = pathlib.Path(tempfile.mkdtemp(prefix="xhybrid-merges-"))
            atexit.register(self._end)
        return self._directory

    def _end(self) -> None:
        for _, _, library, _ in self._loaded:
            library.xh_bridge_stop()  # ctypes lets go of the GIL, so that a call that runs can end
        if self._directory is not None and os.getpid() == self._process:  # the files are not those of a forked child
            shutil.rmtree(self._directory, ignore_errors=True)


_library = _Library()
