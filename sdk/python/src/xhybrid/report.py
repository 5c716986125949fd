"""Pages that show what a run, an evaluation or a bench has found::

    page = xhybrid.Report.from_run("runs/seed") + xhybrid.Report.from_evaluation("five.json")
    page.save("report.html")
    page.figures["alignment loss by layer"].savefig("layers.pdf")

Figures are drawn by `xhybrid.plots` when they are asked for, and need matplotlib: ``pip install xhybrid[plots]``.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "bench_over_context"]

Path = Union[str, "os.PathLike[str]"]


@dataclasses.dataclass(frozen=True)
class _Part:
    """A heading with a table or a figure; `draw` makes the figure."""

    title: str
    rows: Sequence[Sequence[str]] = ()
    draw: Callable[[], Figure] | None = None


class Report:
    """A page of tables and figures. Reports are added with ``+``; the title is the first one's."""

    def __init__(self, title: str, parts: Iterable[_Part] = ()) -> None:
        self.title = title
        self._parts = tuple(parts)

    @classmethod
    def from_run(cls, directory: Path) -> Report:
        """The training curves of a distill run, and its alignment loss by layer where it has an alignment stage.

        Args:
            directory: ``output`` of the recipe, while the run goes on or afterwards.

        Raises:
            FileNotFoundError: it has no metrics.jsonl.
            ValueError: the run has no steps yet.
        """
        steps = _read_metrics(pathlib.Path(directory) / "metrics.jsonl")
        if not steps:
            raise ValueError(f"{os.fspath(directory)}: the run has no steps yet")
        parts = [
            _Part("stages", rows=_stage_table(steps)),
            _Part("training curves", draw=lambda: _plots().training_curves(steps)),
        ]
        if any(step.get("layers") for step in steps):
            parts.append(_Part("alignment loss by layer", draw=lambda: _plots().alignment_by_layer(steps)))
        return cls(f"Run {os.path.basename(os.path.abspath(directory))}", parts)

    @classmethod
    def from_evaluation(cls, result: Path | Mapping[str, Any]) -> Report:
        """Accuracies, the Win-and-Tie curves of students, the memory of each model's state over the context, and mean
        gates where the evaluation has them.

        Args:
            result: what `xhybrid.evaluate` gave, or the file that ``output`` named.

        Raises:
            ValueError: it is not the result of an evaluation.
        """
        found = result if isinstance(result, Mapping) else _read_json(pathlib.Path(result))
        models = found.get("models") if isinstance(found, Mapping) else None
        if not models or any("tasks" not in model or "name" not in model for model in models):
            raise ValueError('not the result of an evaluation: it has no "models" with "name" and "tasks"')
        parts = [_Part("scores", rows=_score_table(models))]
        if any("accuracy" in task for task in models[0]["tasks"]):
            parts.append(_Part("accuracy", draw=lambda: _plots().accuracy(found)))
        if any(model.get("c_alpha") for model in models):
            parts.append(_Part("Win-and-Tie rate", draw=lambda: _plots().win_and_tie(found)))
        if all("state" in model for model in models):
            parts.append(_Part("memory over context", draw=lambda: _plots().memory_over_context(models)))
        if any(model.get("gates") for model in models):
            parts.append(_Part("gates by layer and head", draw=lambda: _plots().gates(found)))
        return cls(f"Evaluation against {models[0]['name']}", parts)

    @classmethod
    def from_bench(cls, points: Sequence[Mapping[str, Any]]) -> Report:
        """Speed over the context length.

        Args:
            points: what `bench_over_context` gave.
        """
        if not points:
            raise ValueError("there is no measurement to show")
        head = [("model", "part", "context, tokens", "tokens per second")]
        rows = [(str(p["name"]), str(p["part"]), f"{p['context']:,}", f"{p['tokens_per_second']:,.1f}") for p in points]
        draw = [_Part("speed over context", draw=lambda: _plots().speed_over_context(points))]
        return cls("Speed over context", [_Part("speed", rows=head + rows), *draw])

    def __add__(self, other: Report) -> Report:
        if not isinstance(other, Report):
            return NotImplemented
        return Report(self.title, self._parts + other._parts)

    @property
    def figures(self) -> Mapping[str, Figure]:
        """The figures by their headings, drawn anew each time; they belong to the caller."""
        return {part.title: part.draw() for part in self._parts if part.draw is not None}

    def html(self) -> str:
        """The page: nothing in it is loaded from elsewhere."""
        body = "\n".join(_html_of(part) for part in self._parts)
        title = html.escape(self.title)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
            f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}\n</body></html>\n"
        )

    def save(self, path: Path) -> None:
        """Writes the page. A page that is there already is replaced when the new one is whole."""
        target = pathlib.Path(path)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            beside.write_text(self.html(), encoding="utf-8")
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)

    def _repr_html_(self) -> str:  # notebooks
        return "\n".join(_html_of(part) for part in self._parts)


def bench_over_context(
    model: Path,
    contexts: Sequence[int],
    *,
    students: Mapping[str, Mapping[str, Any]] | None = None,
    parts: Sequence[str] = ("prefill", "decode"),
    runtime: Any = None,
    **recipe: Any,
) -> list[dict[str, Any]]:
    """Measures reading and writing at several context lengths.

    Args:
        model: the teacher, a checkpoint or a Hugging Face directory.
        contexts: tokens that are read at once ("prefill"), or were read before the first one written ("decode").
        students: mixer options by name, as ``student`` of a recipe. Without it a window of 64 with hedgehog features,
            and the teacher's full attention.
        parts: of "prefill" and "decode".
        runtime: None takes the default runtime.
        recipe: fields of the bench job, ``repeats`` or ``dtype`` for example.

    Returns:
        A dict for each measurement, with ``name``, ``part``, ``context`` (tokens) and ``tokens_per_second``.
    """
    from .job import Job

    chosen = students or {
        "hybrid, window 64": {"window": 64, "feature_map": "hedgehog"},
        "full attention": {"kind": "attention"},
    }
    points = []
    for name, student in chosen.items():
        for context in contexts:
            fields = {"prefill_tokens": context, "decode_after": context, "context": max(2, context), **recipe}
            fields.update(model=os.fspath(model), student=dict(student), parts=list(parts))
            for part, row in zip(parts, Job("bench", fields, runtime).run()["rows"]):
                speed = row["tokens_per_second"]
                points.append({"name": name, "part": part, "context": context, "tokens_per_second": speed})
    return points


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:64em;padding:0 1em;color:#222}"
    "h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}img{max-width:100%;height:auto}"
    "table{border-collapse:collapse}th,td{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:right}"
    "th:first-child,td:first-child{text-align:left}td{font-variant-numeric:tabular-nums}"
)


def _plots() -> Any:
    from . import plots

    return plots


def _html_of(part: _Part) -> str:
    heading = f"<h2>{html.escape(part.title)}</h2>"
    if part.draw is None:
        return f"{heading}\n{_html_table(part.rows)}"
    # An image of its own: shapes of several drawings in one page would share their names.
    encoded = base64.b64encode(_svg(part.draw())).decode()
    return f'{heading}\n<img alt="{html.escape(part.title)}" src="data:image/svg+xml;base64,{encoded}">'


def _svg(figure: Figure) -> bytes:
    """The same figure gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "xhybrid"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + "".join(row(cells, "td" if i else "th") for i, cells in enumerate(rows)) + "</table>"


def _read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The steps; a line that is half written is none."""
    steps = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "step" in row:
                steps.append(row)
    return steps


def _read_json(path: pathlib.Path) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _stage_table(steps: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("stage", "steps", "first loss", "last loss", "tokens", "seconds", "memory, MiB")]
    for stage in dict.fromkeys(str(step.get("stage", "")) for step in steps):
        chosen = [step for step in steps if str(step.get("stage", "")) == stage]
        first, last = chosen[0], chosen[-1]
        tokens = sum(step.get("step_seconds", 0) * step.get("tokens_per_second", 0) for step in chosen)
        rows.append(
            (
                stage,
                f"{len(chosen)} of {last.get('steps', '?')}",
                _number(first.get("loss")),
                _number(last.get("loss")),
                f"{tokens:,.0f}",
                f"{sum(step.get('step_seconds', 0) for step in chosen):,.1f}",
                f"{last.get('memory_bytes', 0) / 2**20:,.0f}",
            )
        )
    return rows


def _score_table(models: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    rows = [("task", *(str(model["name"]) for model in models))]
    for t, task in enumerate(models[0]["tasks"]):
        rows.append((str(task["task"]), *(_score(model["tasks"][t]) for model in models)))
    students = [model for model in models if "alpha_star" in model]
    if students:
        rows.append(("win / tie / loss", *(_outcomes(model) for model in models)))
        for label, key in (("C_0", "c_0"), ("alpha*", "alpha_star")):
            rows.append((label, *(_number(model.get(key)) for model in models)))
    return rows


def _score(task: Mapping[str, Any]) -> str:
    if "perplexity" in task:
        return f"perplexity {task['perplexity']:.2f}"
    return f"{task['accuracy']:.3f} ± {task['standard_error']:.3f}"


def _outcomes(model: Mapping[str, Any]) -> str:
    if "alpha_star" not in model:
        return "–"
    counted = [task for task in model["tasks"] if "wins" in task]
    return " / ".join(str(sum(task[key] for task in counted)) for key in ("wins", "ties", "losses"))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "–"
