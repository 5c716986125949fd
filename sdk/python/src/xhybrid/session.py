from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _native
from ._core import Closable, StrPath, options, sampler_options, token_ids

if TYPE_CHECKING:
    from .model import Model


class Token(NamedTuple):
    """One token of a generation."""

    id: int
    piece: str  #: the text that became complete by it: whole characters, may be empty
    finished: bool  #: the last one: end token, stop text or max_tokens


class Session(Closable):
    """One sequence being read and written: one state with one position.

    One thread at a time; a call while another thread is inside one raises InvalidStateError. Keeps its model alive.

    Args:
        model: whose tokens are read.
        capacity: most tokens (only heads with full attention need memory for it); None takes the model's context.
    """

    def __init__(self, model: Model, capacity: int | None = None) -> None:
        self._handle = _native.xh_session_open(model._handle, options(capacity=capacity))

    @classmethod
    def _of(cls, handle: Any) -> Session:
        session = cls.__new__(cls)
        session._handle = handle
        return session

    def feed(self, ids: Any) -> None:
        """Reads tokens: the state advances by as many positions.

        Args:
            ids: [count], integers: a list, or an array of NumPy or PyTorch; int32 is read where it lies.

        Raises:
            InvalidArgumentError: an id is not in the vocabulary; nothing was read.
            InvalidStateError: the capacity would be exceeded.
        """
        _native.xh_session_feed(self._handle, token_ids(ids))

    def logits(self) -> np.ndarray[Any, Any]:
        """[vocab], float32, after the last token fed; a copy of one's own."""
        return np.frombuffer(_native.xh_session_logits(self._handle), np.float32)

    def sampler(
        self,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
    ) -> None:
        """How tokens are chosen from here on; also resets the counters.

        Args:
            max_tokens: longest answer.
            temperature: 0 is greedy.
            top_k: choose among so many, 0 for all.
            top_p: choose among the likeliest of this total probability.
            seed: of the choice.
            stop: texts that end the answer.
        """
        given = sampler_options(temperature, top_k, top_p, seed, max_tokens, stop)
        _native.xh_session_sampler(self._handle, given)

    def next(self) -> Token:
        """Chooses and feeds one token."""
        return Token(*_native.xh_session_next(self._handle))

    def stream(self, **sampler: Any) -> Iterator[Token]:
        """Tokens until one is finished. Arguments as of :meth:`sampler`; without any, the sampler that is set."""
        if sampler:
            self.sampler(**sampler)
        return self._tokens()

    def _tokens(self) -> Iterator[Token]:
        pull, handle = _native.xh_session_next, self._handle
        finished = False
        while not finished:
            token = Token(*pull(handle))
            finished = token.finished
            yield token

    def snapshot(self) -> bytes:
        """The state as bytes, to keep or to store; the sampler is not part of it."""
        return bytes(_native.xh_session_snapshot(self._handle))

    def restore(self, state: bytes | bytearray | memoryview) -> None:
        """Goes on from a snapshot of a model of the same shape.

        Raises:
            IncompatibleError: it is of another model.
            CorruptError: it is damaged; the session is as it was.
        """
        _native.xh_session_restore(self._handle, state)

    def fork(self) -> Session:
        """An independent session that continues from the same state."""
        return Session._of(_native.xh_session_fork(self._handle))

    def save(self, path: StrPath) -> None:
        """Writes the snapshot to a file, whole or not at all."""
        target = os.path.abspath(os.fspath(path))
        state = self.snapshot()
        descriptor, beside = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".xhybrid-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(state)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        except BaseException:
            os.unlink(beside)
            raise

    def load(self, path: StrPath) -> None:
        """Restores what :meth:`save` wrote."""
        with open(path, "rb") as file:
            self.restore(file.read())

    def reset(self) -> None:
        """Back to position 0."""
        _native.xh_session_reset(self._handle)

    @property
    def position(self) -> int:
        """Tokens read and written so far."""
        return int(_native.xh_session_position(self._handle))

    @property
    def state_bytes(self) -> int:
        """Bytes of state that the session holds."""
        return int(_native.xh_session_state_bytes(self._handle))


class Batch(Closable):
    """Sequences that are written together, so that the weights are read once for all of them. One thread at a time.

    Its tokens are those that their sessions would give, but for rounding.

    Args:
        model: whose sessions are put in.
        slots: sequences at most, 1 to 1,024.
        capacity: most tokens of a sequence; None takes the model's context.
    """

    def __init__(self, model: Model, slots: int = 8, capacity: int | None = None) -> None:
        self._handle = _native.xh_batch_open(model._handle, options(slots=slots, capacity=capacity))
        self.slots = slots

    def put(self, slot: int, session: Session) -> None:
        """Copies a session that has read its prompt, with its sampler; what the slot held is dropped."""
        _native.xh_batch_put(self._handle, slot, session._handle)

    def drop(self, slot: int) -> None:
        """Empties a slot."""
        _native.xh_batch_drop(self._handle, slot)

    def next(self) -> list[Token | None]:
        """Chooses and feeds one token of every sequence: [slots], None where a slot is empty. A finished sequence leaves
        its slot."""
        tokens = _native.xh_batch_next(self._handle, self.slots)
        return [None if token is None else Token(*token) for token in tokens]

    @property
    def state_bytes(self) -> int:
        return int(_native.xh_batch_state_bytes(self._handle))
