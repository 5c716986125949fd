from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from . import _native
from ._core import Closable, StrPath, from_json, options, path_bytes
from .runtime import Runtime, handle_of

_DTYPES = {
    _native.XH_F32: "f32",
    _native.XH_F16: "f16",
    _native.XH_BF16: "bf16",
    _native.XH_I32: "i32",
    _native.XH_I64: "i64",
    _native.XH_U8: "u8",
}
_DLPACK_CPU = (1, 0)


class Tensor:
    """A tensor of a checkpoint, read-only, where the file is mapped: no copy is made.

    ``numpy()``, ``numpy.from_dlpack(tensor)``, ``torch.from_dlpack(tensor)`` and ``memoryview(tensor.buffer)`` all look
    at the same memory, which stays while any of them lives, also after the checkpoint was closed. DLPack before 1.0
    cannot say that memory is read-only: what another library makes of it must not be written to.
    """

    def __init__(self, name: str, view: Any) -> None:
        self.name = name
        #: The same memory through the buffer protocol; bf16 as its bits, format "H".
        self.buffer = view

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.buffer.shape
        return shape

    @property
    def dtype(self) -> str:
        """``"f32"``, ``"f16"``, ``"bf16"``, ``"i32"``, ``"i64"`` or ``"u8"``."""
        return _DTYPES[self.buffer.dtype]

    def numpy(self) -> np.ndarray[Any, Any]:
        """A view of ``shape``, not writable. bf16, which NumPy does not have, is ``ml_dtypes.bfloat16`` where that
        package is installed, else its bits as ``uint16``; ``float32()`` gives values."""
        array = np.asarray(self.buffer)
        if self.dtype != "bf16":
            return array
        try:
            import ml_dtypes
        except ImportError:
            return array
        return array.view(ml_dtypes.bfloat16)

    def float32(self) -> np.ndarray[Any, Any]:
        """A copy of ``shape`` in float32. bf16 and f16 are widened exactly."""
        array = np.asarray(self.buffer)
        if self.dtype == "bf16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"{self.name} is {self.dtype}: another dtype takes a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if stream is not None:
            raise BufferError("a tensor of a checkpoint lies in host memory, where there are no streams")
        if dl_device is not None and tuple(dl_device) != _DLPACK_CPU:
            raise BufferError("a tensor of a checkpoint lies in host memory; copy it to a device afterwards")
        if copy:
            raise BufferError("a tensor of a checkpoint is lent, not copied")
        return self.buffer.dlpack(max_version is not None and max_version[0] >= 1)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CPU

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.dtype}, {list(self.shape)})"


class Checkpoint(Closable):
    """An open checkpoint directory (``NAME.xhy``). May be used from any thread.

    Opening maps the files and checks the manifest and file sizes; a tensor's digest is checked on its first use.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @classmethod
    def open(cls, path: StrPath, load_mode: str | None = None, runtime: Runtime | None = None) -> Checkpoint:
        """Opens a checkpoint.

        Args:
            path: the directory.
            load_mode: ``"map"`` (default), or ``"copy"`` for storage that others may truncate.

        Raises:
            NotFoundError: there is none.
            CorruptError: it is damaged.
            IncompatibleError: it is of another version.
        """
        handle = handle_of(runtime)
        return cls(_native.xh_checkpoint_open(handle, path_bytes(path), options(load_mode=load_mode)))

    @property
    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return [str(_native.xh_checkpoint_tensor_name(self._handle, index)) for index in range(len(self))]

    def tensor(self, name: str) -> Tensor:
        """One tensor, its digest checked.

        Raises:
            NotFoundError: there is no tensor of this name.
            CorruptError: its bytes do not match their digest.
        """
        return Tensor(name, _native.xh_checkpoint_tensor(self._handle, name))

    def verify(self) -> None:
        """Checks every digest and all padding: the whole of every file is read."""
        _native.xh_checkpoint_verify(self._handle)

    def describe(self) -> dict[str, Any]:
        """Configuration, mixers, history and tensor table."""
        described: dict[str, Any] = from_json(_native.xh_checkpoint_describe(self._handle))
        return described

    def __len__(self) -> int:
        return int(_native.xh_checkpoint_tensor_count(self._handle))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Tensor:
        return self.tensor(name)
