from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Callable, Union

from . import _native
from ._core import Closable, from_json, to_json
from ._errors import Error
from ._log import logger
from .progress import Progress
from .runtime import Runtime, handle_of

Event = dict[str, Any]
OnProgress = Union[Callable[[Event], object], None]


class Job(Closable):
    """Long work that its caller pulls along: iterating gives an event, a dict with a ``"kind"``, for each piece done.

        with xhybrid.Job("evaluate", recipe) as job:
            for event in job:
                print(event["done"], "of", event["total"])
            result = job.result()

    A KeyboardInterrupt lets the piece in hand finish, saves what the job saves, and is raised again; so does one in the
    body of ``with``. The same recipe goes on from there where its kind can. One thread at a time; :meth:`cancel` from
    any.

    Args:
        kind: "import", "export", "tokenize", "plan", "distill", "probe", "merge", "evaluate" or "bench".
        recipe: its options, see :func:`xhybrid.schema`; a dict, or JSON text.

    Raises:
        InvalidArgumentError: a field of the recipe is not allowed; the message says what is.
    """

    def __init__(self, kind: str, recipe: Mapping[str, Any] | str, runtime: Runtime | None = None) -> None:
        text = recipe if isinstance(recipe, str) else to_json(dict(recipe))
        self.kind = kind
        self._finished = False
        self._handle = _native.xh_job_open(handle_of(runtime), kind, text)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self._finished:
            raise StopIteration
        try:
            event, self._finished = _native.xh_job_next(self._handle)
            described: Event = from_json(event)
        except KeyboardInterrupt as interrupt:
            self._end(interrupt)
            raise
        return described

    def cancel(self) -> None:
        """Asks the job to stop; the next step saves and raises CancelledError. Any thread."""
        _native.xh_job_cancel(self._handle)

    def result(self) -> dict[str, Any]:
        """The outcome.

        Raises:
            InvalidStateError: the job has not finished.
        """
        result: dict[str, Any] = from_json(_native.xh_job_result(self._handle))
        return result

    def run(self, on_progress: OnProgress = None, progress: bool = True) -> dict[str, Any]:
        """To the end; gives the result.

        Args:
            on_progress: called with every event, on this thread.
            progress: show a bar, where tqdm is installed and somebody is there to see it.
        """
        with self, Progress(self.kind, progress) as bar:
            for event in self:
                bar.show(event)
                if on_progress is not None:
                    on_progress(event)
            return self.result()

    def __exit__(self, *exception: object) -> None:
        interrupt = exception[1] if len(exception) > 1 else None
        if isinstance(interrupt, KeyboardInterrupt):
            self._end(interrupt)
        self.close()

    def _end(self, interrupt: BaseException) -> None:
        """Cancels and lets the job save; tells with the interrupt how to resume. Nothing takes the interrupt's place."""
        if self._finished or self.closed:
            return
        self.cancel()
        try:
            while not self._finished:
                _, self._finished = _native.xh_job_next(self._handle)
        except Error as ended:  # a CancelledError, unless the job ended or failed in this moment
            self._finished = True
            logger.warning("%s", ended.message)
            if hasattr(interrupt, "add_note"):  # Python 3.11
                interrupt.add_note(ended.message)
