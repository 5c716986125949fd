"""A bar for jobs: tqdm's, in terminals and notebooks, where it is installed."""

from __future__ import annotations

import sys
from typing import Any


def _in_notebook() -> bool:
    """A kernel's standard error is no terminal, and yet somebody looks."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def _new_bar(kind: str) -> Any:
    if not _in_notebook() and not (sys.stderr is not None and sys.stderr.isatty()):
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(desc=kind, unit="", dynamic_ncols=True, leave=True)


def _amount(event: dict[str, Any]) -> tuple[int, int] | None:
    """(done, total): of all steps of a distillation, else of what the job counts."""
    for done, total in (("total_step", "total_steps"), ("done", "total")):
        if isinstance(event.get(done), int) and isinstance(event.get(total), int):
            return event[done], event[total]
    return None


def _words(event: dict[str, Any]) -> dict[str, Any]:
    """What stands behind the bar."""
    found: dict[str, Any] = {key: event[key] for key in ("stage", "model", "task", "name", "part") if key in event}
    for key in ("loss", "accuracy", "perplexity"):
        if key in event:
            found[key] = f"{event[key]:.4g}"
    if "tokens_per_second" in event:
        found["tokens/s"] = f"{event['tokens_per_second']:.0f}"
    return found


class Progress:
    def __init__(self, kind: str, wanted: bool) -> None:
        self._kind = kind
        self._bar = _new_bar(kind) if wanted else None

    def show(self, event: dict[str, Any]) -> None:
        amount = _amount(event)
        if self._bar is None or amount is None:
            return
        done, total = amount
        kind = event.get("kind", self._kind)
        if self._bar.total != total:  # another thing is counted from here on: bytes of data, then steps
            self._bar.reset(total=total)
        self._bar.set_description(self._kind if kind in (self._kind, "step") else f"{self._kind} {kind}", refresh=False)
        self._bar.set_postfix(_words(event), refresh=False)
        self._bar.n = done
        self._bar.refresh()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
