from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

import numpy as np

from . import _native
from ._core import Closable, StrPath, from_json, options, path_bytes, to_json, token_ids
from .runtime import Runtime, handle_of
from .session import Batch, Session, Token

#: A text to go on with, or a conversation: [{"role": "user", "content": ...}, ...]
Prompt = Union[str, Sequence[Mapping[str, str]]]


class Model(Closable):
    """A loaded model. Does not change after loading and may be used from any thread. Keeps its runtime alive."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._widest: int | None = None

    @classmethod
    def load(cls, path: StrPath, dtype: str | None = None, runtime: Runtime | None = None) -> Model:
        """Loads a checkpoint or a Hugging Face directory onto the runtime's device; files are mapped.

        Args:
            path: ``NAME.xhy``, or a directory with config.json, safetensors and tokenizer files.
            dtype: ``"stored"`` (default), ``"f32"`` or ``"bf16"``.
            runtime: None takes the default runtime.

        Raises:
            NotFoundError: there is nothing at the path.
            UnsupportedError: an architecture or a field of its configuration that the library does not have.
            CorruptError, IncompatibleError: the files are damaged, or do not fit together.
        """
        return cls(_native.xh_model_load(handle_of(runtime), path_bytes(path), options(dtype=dtype)))

    @classmethod
    def from_huggingface(
        cls,
        directory: StrPath,
        save_to: StrPath | None = None,
        dtype: str | None = None,
        runtime: Runtime | None = None,
    ) -> Model:
        """Loads a Hugging Face directory. With ``save_to`` it becomes a checkpoint there first, which later runs open
        without reading the whole of it."""
        if save_to is None:
            return cls.load(directory, dtype, runtime)
        from .jobs import import_model

        import_model(directory, save_to, progress=False, runtime=runtime)
        return cls.load(save_to, dtype, runtime)

    def describe(self) -> dict[str, Any]:
        """Configuration, mixers, parameter count, state bytes and history."""
        described: dict[str, Any] = from_json(_native.xh_model_describe(self._handle))
        return described

    @property
    def vocab_size(self) -> int:
        return int(_native.xh_model_vocab_size(self._handle))

    # ---- text

    def encode(self, text: str, add_special: bool = False) -> list[int]:
        """Token ids of a text. ``add_special`` adds what the tokenizer puts around a document (for example ``<s>``), but
        no second one in front of a text that begins with it."""
        capacity = len(text) + 8  # a token is seldom shorter than a character; when it is, the second call has room
        while True:
            ids = _native.xh_model_encode(self._handle, text, int(add_special), capacity)
            if isinstance(ids, list):
                return ids
            capacity = ids

    def decode(self, ids: Any) -> str:
        """The text of token ids, [count]."""
        text: bytes = _native.xh_model_decode(self._handle, token_ids(ids))
        return text.decode("utf-8", "replace")

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages, ``[{"role": ..., "content": ...}, ...]``, rendered with the model's chat template."""
        text: bytes = _native.xh_model_chat(self._handle, to_json(list(messages)), int(add_generation_prompt))
        return text.decode("utf-8", "replace")

    # ---- forward

    def forward(self, ids: Any, tap: str = "logits") -> np.ndarray[Any, Any]:
        """Full forward of one sequence.

        Args:
            ids: [count], integers.
            tap: what to give: ``"logits"`` [count, vocab]; ``"hidden.N"`` [count, hidden_size] (0: embeddings; N: after
                block N; the last after the final norm); ``"layers.N.mixer.out"`` [count, heads * head_dim], before W_o;
                ``"layers.N.mixer.gate"`` [count, heads that mix].

        Returns:
            float32, two dimensions.
        """
        ids = token_ids(ids)
        count = max(len(ids) if hasattr(ids, "__len__") else 0, 1)  # what has none is refused below, in words
        values = np.empty(count * self._widest_row(), np.float32)
        size = _native.xh_model_forward(self._handle, ids, tap, values)
        if size > values.size:
            values = np.empty(size, np.float32)
            size = _native.xh_model_forward(self._handle, ids, tap, values)
        rows = values[:size].reshape(count, -1)
        return rows if size == values.size else rows.copy()

    def _widest_row(self) -> int:
        """Room for any tap, so that the forward is run once; memory that is not written is not taken."""
        if self._widest is None:
            config = self.describe()["config"]
            self._widest = max(self.vocab_size, config["hidden_size"], config["heads"] * config["head_dim"])
        return self._widest

    def score(self, ids: Any) -> np.ndarray[Any, Any]:
        """log p(ids[t] | ids[0..t-1]) for t = 1 .. count-1: [count - 1], float32."""
        return np.frombuffer(_native.xh_model_score(self._handle, token_ids(ids)), np.float32)

    # ---- generation

    def session(self, capacity: int | None = None) -> Session:
        """A sequence to read and write; ``capacity`` is its most tokens."""
        return Session(self, capacity)

    def batch(self, slots: int = 8, capacity: int | None = None) -> Batch:
        """Room for ``slots`` sequences that are written together."""
        return Batch(self, slots, capacity)

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        capacity: int | None = None,
    ) -> Iterator[Token]:
        """Tokens as they are written. A text is gone on with; messages are rendered with the chat template and answered.
        The prompt is read when the first token is asked for. Other arguments as of :meth:`Session.sampler`."""
        text = prompt if isinstance(prompt, str) else self.chat(prompt)
        ids = self.encode(text, add_special=True)
        with self.session(capacity) as session:
            session.feed(ids)
            session.sampler(
                max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop
            )
            yield from session._tokens()

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        capacity: int | None = None,
    ) -> str:
        """The whole text that :meth:`stream` gives piece by piece."""
        tokens = self.stream(
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
            capacity=capacity,
        )
        return "".join(token.piece for token in tokens)
