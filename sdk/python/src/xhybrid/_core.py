"""What every class of the package is built on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, TypeVar, Union

from . import _native

StrPath = Union[str, "os.PathLike[str]"]
Self = TypeVar("Self", bound="Closable")


class Closable:
    """An object of the library. ``close()`` or ``with`` frees it early, else it is freed when nothing refers to it."""

    _handle: Any

    def close(self) -> None:
        """Frees the object; again is allowed. A call in progress on another thread ends first."""
        self._handle.close()

    @property
    def closed(self) -> bool:
        return bool(self._handle.closed)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def release() -> str:
    """The library's release, ``"0.1.0"``."""
    return str(_native.xh_release())


def abi_version() -> tuple[int, int]:
    """Major and minor of the C interface that the loaded library has."""
    version = int(_native.xh_version())
    return version >> 16, version & 0xFFFF


def path_bytes(path: StrPath) -> bytes:
    return os.fsencode(path)


def options(**given: Any) -> dict[str, Any]:
    """Those that were given. Lists become tuples, which nobody changes while a call reads them."""
    return {
        key: tuple(value) if isinstance(value, (list, tuple)) else value
        for key, value in given.items()
        if value is not None
    }


def sampler_options(
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    max_tokens: int = 256,
    stop: str | Sequence[str] = (),
) -> dict[str, Any]:
    texts = (stop,) if isinstance(stop, str) else tuple(stop)
    return options(
        temperature=float(temperature),
        top_k=top_k,
        top_p=float(top_p),
        seed=seed,
        max_tokens=max_tokens,
        stop=texts,
    )


def token_ids(ids: Any) -> Any:
    """What the binding takes as ids: sequences and buffers as they are, tensors of other libraries through DLPack."""
    if hasattr(ids, "__dlpack__") and not hasattr(ids, "__array_interface__"):
        import numpy

        return numpy.from_dlpack(ids)
    return ids


def from_json(text: bytes | str) -> Any:
    return json.loads(text)


def _jsonable(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # scalars and arrays of NumPy
        return value.tolist()
    raise TypeError(f"a recipe holds {type(value).__name__}; allowed: what JSON has, paths, NumPy numbers")


def to_json(value: Any) -> str:
    return json.dumps(value, default=_jsonable)
