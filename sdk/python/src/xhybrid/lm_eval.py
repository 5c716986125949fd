"""Models of this library in EleutherAI's lm-evaluation-harness (``pip install 'xhybrid[lm-eval]'``)::

    python -m xhybrid.lm_eval --install   # once an environment, up to harness 0.4.13
    lm_eval --model xhybrid --model_args path=student.xhy --tasks arc_easy

Harnesses after 0.4.13 find the class by its entry point (group ``lm_eval.models``). Older ones know the models of their
own source alone: ``--install`` writes a file that Python reads when it starts, by which their program finds this one too
(``--uninstall`` takes it away), and ``python -m xhybrid.lm_eval`` is their program with this model and needs no file.
"""

from __future__ import annotations

import hashlib
import logging
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import MODEL_REGISTRY, register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:  # pragma: no cover
    raise ImportError("this module needs the evaluation harness: pip install 'xhybrid[lm-eval]'") from error
from tqdm import tqdm

from . import _harness_hook
from .model import Model
from .runtime import Runtime
from .session import Session

__all__ = ["XHybridLM", "main"]

_log = logging.getLogger("xhybrid.lm_eval")

# What the harness asks for when nobody said a device.
_UNASKED_DEVICE = "cuda:0"
# Names that tasks give the longest answer by.
_MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_PROBE = ({"role": "user", "content": "{content}"}, {"role": "assistant", "content": "{content}"})


class XHybridLM(TemplateLM):  # type: ignore[misc]
    """A checkpoint or Hugging Face directory that the harness evaluates.

    Args (``--model_args path=student.xhy,dtype=bf16``):
        path: what to load.
        dtype: "stored", "f32" or "bf16".
        device: "cpu" or "cuda", the harness's ``--device``. Without it, and with "cuda:0", the best that this host has.
        threads: of the cpu backend.
        max_length: most tokens of a prompt with its answer, cut on the left; default: the model's context.
        max_gen_toks: longest answer where the task does not say.
        batch_size, max_batch_size: accepted and without effect. Each sequence is read by itself, so that no score
            depends on what stands beside it; continuations of one context share its reading.
    """

    def __init__(
        self,
        path: str,
        dtype: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        wanted = None if device == _UNASKED_DEVICE else device
        self.model = Model.load(path, dtype, Runtime(wanted, threads))
        self.max_gen_toks = int(max_gen_toks)
        self.batch_size = batch_size
        self._path = str(path)
        self._about = self.model.describe()
        config = self._about["config"]
        self.max_length = int(max_length or config["context"])
        if not 2 <= self.max_length <= config["context"]:
            raise ValueError(f"max_length is {self.max_length}; allowed: 2 to {config['context']}, the model's context")

    # ---- tokens

    @property
    def eot_token_id(self) -> int:
        ends = self._about["config"]["eos_ids"]
        if not ends:
            raise ValueError(f"{self._path} has neither a first nor an end token to put before a text without context")
        return int(ends[0])

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: the first token of a document, else the end token."""
        first = self._about["config"].get("bos_id")
        return int(first) if first is not None and first >= 0 else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids with what the tokenizer puts around a document, unless it is told not to; a text that begins with it, as
        chat templates write it, gets no second one."""
        return self.model.encode(string, add_special=add_special_tokens is not False)

    def tok_decode(self, tokens: Sequence[int], **_: Any) -> str:
        return self.model.decode(tokens)

    # ---- scores

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_others: Any,
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether greedy decoding writes it."""
        contexts: dict[tuple[int, ...], list[int]] = {}  # requests of each context
        for index, (_, before, continuation) in enumerate(requests):
            contexts.setdefault(tuple(self._fit(before, continuation)), []).append(index)
        answers: list[tuple[float, bool]] = [(math.nan, False)] * len(requests)
        with tqdm(total=len(requests), desc="Running loglikelihood requests", disable=disable_tqdm) as bar:
            for context, group in contexts.items():
                longest = max(len(requests[index][2]) for index in group)
                with self.model.session(len(context) + longest) as start:
                    start.feed(context)
                    for index in group:
                        texts, _, continuation = requests[index]
                        with start.fork() as session:
                            answers[index] = _continued(session, continuation)
                        self.cache_hook.add_partial("loglikelihood", texts, answers[index])
                        bar.update()
        return answers

    def _fit(self, context: Sequence[int], continuation: Sequence[int]) -> Sequence[int]:
        """The context's end, as much of it as has room before the continuation, and one token at least."""
        room = self.max_length + 1 - len(continuation)  # the last token is not read
        if room < 1:
            raise ValueError(f"a continuation has {len(continuation)} tokens; allowed: {self.max_length} (max_length)")
        return context[-room:] or [self.prefix_token_id]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts. One that is longer than the model's context is cut into windows, each token
        predicted once and the last window filled up with what came before it."""
        answers = []
        for request in tqdm(requests, desc="Running loglikelihood_rolling requests", disable=disable_tqdm):
            (text,) = request.args
            ids = self.tok_encode(text, add_special_tokens=False)
            # Context and what is predicted from it are scored together and have to fit both.
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length - 1, context_len=1)
            answers.append(sum(self._scored(*make_disjoint_window(window)) for window in windows))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), answers[-1])
        return answers

    def _scored(self, context: list[int], continuation: list[int]) -> float:
        scores = self.model.score(context + continuation)
        return float(scores[-len(continuation) :].sum(dtype=np.float64))

    # ---- answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, without the text that ended them. Greedy unless the task samples; then its ``seed`` (default 0)
        makes each answer, whatever was asked before."""
        answers = []
        for request in tqdm(requests, desc="Running generate_until requests", disable=disable_tqdm):
            context, given = request.args
            sampler = self._sampler(given)
            room = self.max_length - sampler["max_tokens"]
            if room < 1:
                raise ValueError(
                    f"the longest answer has {sampler['max_tokens']} tokens; allowed: fewer than {self.max_length}"
                )
            ids = self.tok_encode(context)[-room:] or [self.prefix_token_id]
            with self.model.session(len(ids) + sampler["max_tokens"]) as session:
                session.feed(ids)
                answers.append("".join(token.piece for token in session.stream(**sampler)))
            self.cache_hook.add_partial("generate_until", (context, given), answers[-1])
        return answers

    def _sampler(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A task's generation arguments as those of Session.sampler."""
        rest = dict(given)
        until = rest.pop("until", None) or []
        stop = [until] if isinstance(until, str) else list(until)
        lengths = [rest.pop(name) for name in _MAX_TOKENS if name in rest]
        temperature = float(rest.pop("temperature", None) or 0.0)
        samples = rest.pop("do_sample", temperature > 0)
        sampler: dict[str, Any] = {
            "stop": [text for text in stop if text],
            "max_tokens": int(next((length for length in lengths if length is not None), self.max_gen_toks)),
            "temperature": (temperature or 1.0) if samples else 0.0,
        }
        sampler.update((name, rest.pop(name)) for name in ("top_k", "top_p", "seed") if name in rest)
        if rest:
            raise ValueError(f"generation arguments {', '.join(sorted(rest))} are not known; allowed: {_allowed()}")
        return sampler

    # ---- chat

    def apply_chat_template(self, chat_history: Iterable[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages rendered with the model's template. Without a generation prompt the last one stays open, to be gone
        on with."""
        messages = list(chat_history)
        text = self.model.chat(messages, add_generation_prompt)
        if add_generation_prompt or not messages:
            return text
        last = messages[-1]["content"].strip()
        at = text.rfind(last)
        if at < 0:
            raise ValueError(
                "the model's chat template does not show the last message as it is: it cannot be gone on with"
            )
        return text[: at + len(last)]

    @property
    def tokenizer_name(self) -> str:
        """A name that differs where tokenizers or chat templates do: caches of requests are kept by it."""
        known = (self._about.get("tokenizer"), self._rendered(), self.tok_encode("The quick brown fox, 1 + 1 = 2."))
        return f"xhybrid-{hashlib.sha256(repr(known).encode()).hexdigest()[:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """For the record: what the template makes of a question and an answer. The template itself stays in the
        model."""
        if isinstance(chat_template, str):
            raise ValueError(f"chat template {chat_template!r} is not known; a model has one")
        return self._rendered() if chat_template else None

    def _rendered(self) -> str:
        return self.model.chat(list(_PROBE), add_generation_prompt=True)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside the results."""
        return {
            "model_num_parameters": self._about["parameters"],
            "model_dtype": self._about["activation_dtype"],
            "model_family": self._about["family"],
        }


def _continued(session: Session, continuation: Sequence[int]) -> tuple[float, bool]:
    total, greedy = 0.0, True
    for position, token in enumerate(continuation):
        if position > 0:
            session.feed([continuation[position - 1]])
        logits = session.logits().astype(np.float64)
        top = logits.max()
        total += logits[token] - top - math.log(np.exp(logits - top).sum())
        greedy = greedy and int(logits.argmax()) == token
    return float(total), greedy


def _allowed() -> str:
    return ", ".join(("until", "do_sample", "temperature", "top_k", "top_p", "seed", *_MAX_TOKENS))


def main() -> None:
    """The harness's own program; with ``--install`` or ``--uninstall`` alone what makes ``lm_eval`` know this model."""
    changes = {("--install",): _harness_hook.install, ("--uninstall",): _harness_hook.uninstall}
    change = changes.get(tuple(sys.argv[1:]))
    if change is not None:
        for path in change():
            print(path)
        return
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    from xhybrid.lm_eval import main as importable_main  # the class is registered by the module that others import

    importable_main()
elif "xhybrid" not in MODEL_REGISTRY:  # a harness that reads entry points has a placeholder there, and loads it by this
    register_model("xhybrid")(XHybridLM)
