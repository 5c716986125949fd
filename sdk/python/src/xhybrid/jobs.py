"""Long work, one function a kind of job. Each takes the job's own options as keyword arguments; ``schema(kind)`` lists
them with types, defaults and help.

Of every function:
    on_progress: called with every event, a dict, on this thread.
    progress: show a bar, where tqdm is installed and standard error is a terminal or this is a notebook.
    runtime: None takes the default runtime.

A KeyboardInterrupt ends the work after the piece in hand, saves what can be saved, and is raised again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Union

from . import _native
from ._core import StrPath, from_json
from .job import Job, OnProgress
from .runtime import Runtime, handle_of

#: A recipe as a dict, or the path of one as a JSON file.
Recipe = Union[Mapping[str, Any], StrPath, None]


def schema(kind: str | None = None, runtime: Runtime | None = None) -> dict[str, Any]:
    """The options of a kind of job, ``{"options": [{"name", "type", "default", "help"}, ...]}``; without a kind, the
    kinds."""
    described: dict[str, Any] = from_json(_native.xh_job_schema(handle_of(runtime), kind))
    return described


def _recipe(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    if recipe is None:
        base: dict[str, Any] = {}
    elif isinstance(recipe, Mapping):
        base = dict(recipe)
    else:
        with open(recipe, encoding="utf-8") as file:
            base = json.load(file)
    base.update({key: value for key, value in given.items() if value is not None})
    return base


def _paths(paths: StrPath | Sequence[StrPath]) -> list[str]:
    if isinstance(paths, (str, os.PathLike)):
        return [os.fspath(paths)]
    return [os.fspath(path) for path in paths]


def _run(
    kind: str, recipe: Mapping[str, Any], on_progress: OnProgress, progress: bool, runtime: Runtime | None
) -> dict[str, Any]:
    return Job(kind, recipe, runtime).run(on_progress, progress)


def distill(
    recipe: Recipe = None,
    on_progress: OnProgress = None,
    progress: bool = True,
    runtime: Runtime | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Turns a teacher into a hybrid student, stage by stage.

    Args:
        recipe: a dict or a JSON file; keyword arguments go on top of it::

            xhybrid.distill(teacher="teacher.xhy", output="run", student={"window": 64}, batch=16,
                            stages=[{"stage": "align", "steps": 80}], data=[{"path": "mix.jsonl"}])

    Returns:
        the outcome; the student is ``student.xhy`` in the recipe's ``output``. A run that was interrupted goes on when
        the same recipe is given again, and ends in the same bytes as one that was not.
    """
    return _run("distill", _recipe(recipe, options), on_progress, progress, runtime)


def plan(
    recipe: Recipe = None,
    on_progress: OnProgress = None,
    progress: bool = False,
    runtime: Runtime | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Says what a distill recipe will hold in the device's memory, in bytes; no weight is read. ``data`` and ``output``
    need not be given."""
    return _run("plan", _recipe(recipe, options), on_progress, progress, runtime)


def merge(
    models: Sequence[StrPath],
    output: StrPath | None = None,
    method: str = "linear",
    weights: Sequence[float] | None = None,
    base: StrPath | None = None,
    on_progress: OnProgress = None,
    progress: bool = True,
    runtime: Runtime | None = None,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Merges students that began from the same weights into the checkpoint ``output``.

    Args:
        models: checkpoints or Hugging Face directories.
        method: a merge plugin, ``Runtime.plugins()`` lists them with their options.
        weights: one for each model; None is equal weights.
        base: what the models began from, where the method needs it.
        options: of the method.
        more: ``dtype``, ``replace``, ``dry_run``.
    """
    of_method = dict(options or {})
    if weights is not None:
        of_method["weights"] = [float(weight) for weight in weights]
    given = dict(more, models=_paths(models), output=output, method=method, base=base, options=of_method)
    return _run("merge", _recipe(None, given), on_progress, progress, runtime)


def evaluate(
    models: StrPath | Sequence[StrPath],
    tasks: StrPath | Sequence[StrPath],
    names: Sequence[str] | None = None,
    on_progress: OnProgress = None,
    progress: bool = True,
    runtime: Runtime | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measures models on tasks, and every model against the first, the teacher.

    Args:
        models: checkpoints or Hugging Face directories; ``PATH:window`` and ``PATH:mlstm`` are one branch of a student.
        tasks: JSONL files of questions (``messages``) or texts (``text``), or JSON files that describe questions.
        names: what to call the models.
        options: ``limit``, ``max_tokens``, ``gates``, ``output``.

    Returns:
        ``{"teacher": name, "models": [{"name", "tasks": [{"task", "accuracy", ...}], "alpha_star", ...}]}``
    """
    given = dict(options, models=_paths(models), tasks=_paths(tasks), names=list(names) if names is not None else None)
    return _run("evaluate", _recipe(None, given), on_progress, progress, runtime)


def probe(
    model: StrPath,
    output: StrPath | None = None,
    on_progress: OnProgress = None,
    progress: bool = True,
    runtime: Runtime | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Finds the heads that carry retrieval, and plans a student that keeps them: ``distill(plan=output, ...)``.

    Args:
        options: ``window``, ``sinks``, ``kinds``, ``tasks``, ``lengths``, ``questions``, ``keep_heads``, ``target``, ...
    """
    return _run("probe", _recipe(None, dict(options, model=model, output=output)), on_progress, progress, runtime)


def import_model(
    directory: StrPath,
    output: StrPath | None = None,
    on_progress: OnProgress = None,
    progress: bool = True,
    runtime: Runtime | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Reads a Hugging Face directory into the checkpoint ``output``. Options: ``dtype``, ``replace``, ``dry_run``."""
    return _run("import", _recipe(None, dict(options, model=directory, output=output)), on_progress, progress, runtime)


def export(
    model: StrPath,
    output: StrPath | None = None,
    on_progress: OnProgress = None,
    progress: bool = True,
    runtime: Runtime | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Writes a model as a Hugging Face directory. Options: ``dtype``, ``shard_size``, ``replace``, ``dry_run``."""
    return _run("export", _recipe(None, dict(options, model=model, output=output)), on_progress, progress, runtime)
