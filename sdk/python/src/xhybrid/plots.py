"""Figures of runs, evaluations and benches, with matplotlib (``pip install xhybrid[plots]``).

Each function takes what the library wrote, as parsed JSON, and returns a `matplotlib.figure.Figure` that belongs to the
caller; pyplot and its global state are not touched. Colours are those of Okabe and Ito, which colour-blind readers tell
apart, with another line style and marker for each line; maps are drawn in cividis.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

try:
    import matplotlib
except ImportError as error:  # pragma: no cover
    raise ImportError("figures need matplotlib: pip install 'xhybrid[plots]'") from error
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

__all__ = [
    "accuracy",
    "alignment_by_layer",
    "gates",
    "memory_over_context",
    "speed_over_context",
    "training_curves",
    "win_and_tie",
]

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MAP = "cividis"
_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "text.parse_math": False,  # a "$" in a model's name is a "$"
    "figure.facecolor": "white",
}
_LAST_STEPS = 20  # whose mean stands for the end of a stage: single steps swing with their batch
_ANNOTATED_CELLS = 12 * 16

Steps = Sequence[Mapping[str, Any]]


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @functools.wraps(draw)
    def wrapper(*arguments: Any, **keywords: Any) -> Figure:
        with matplotlib.rc_context(_STYLE):
            return draw(*arguments, **keywords)

    return wrapper


@_styled
def training_curves(steps: Steps) -> Figure:
    """Loss, learning rate and tokens a second over the steps of each stage, one column a stage.

    Args:
        steps: the rows of a run's ``metrics.jsonl``.
    """
    stages = _stages(steps)
    figure = Figure(figsize=(max(6.0, 4.2 * len(stages)), 6.6), layout="constrained")
    axes = figure.subplots(3, len(stages), squeeze=False, sharex="col")
    for column, (stage, rows) in enumerate(stages.items()):
        loss, rate, speed = axes[:, column]
        loss.set_title(f"stage {stage}, {len(rows)} steps", pad=22)  # the legend lies between
        _draw_losses(loss, rows)
        rate.plot(*_series(rows, "learning_rate"), color=_COLORS[2])
        rate.ticklabel_format(axis="y", scilimits=(-2, 2))
        rate.set_ylim(bottom=0)
        speed.plot(*_series(rows, "tokens_per_second"), color=_COLORS[3])
        speed.yaxis.set_major_formatter(EngFormatter(sep=""))
        speed.set_ylim(bottom=0)
        speed.set_xlabel("step")
        speed.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis, label in zip(axes[:, 0], ("loss", "learning rate", "tokens per second")):
        axis.set_ylabel(label)
    return figure


def _draw_losses(axis: Axes, rows: Steps) -> None:
    """The loss that is minimised, and the figures that a stage reports beside it."""
    parts = (("loss", "loss"), ("cross_entropy", "cross entropy"), ("kl", "KL to the teacher"))
    drawn = [(label, *_series(rows, key)) for key, label in parts if any(key in row for row in rows)]
    for index, (label, x, y) in enumerate(drawn):
        axis.plot(x, y, label=label, color=_COLORS[index], linestyle=_LINES[index])
    skipped = [row["step"] for row in rows if row.get("skipped")]
    for index, step in enumerate(skipped):
        axis.axvline(step, color="#888888", linewidth=0.8, label="" if index else "skipped: not finite")
    if len(drawn) > 1 or skipped:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8.5, borderaxespad=0.1)
    if all(value > 0 for _, _, y in drawn for value in y if not math.isnan(value)):
        _log_scale(axis)


@_styled
def alignment_by_layer(steps: Steps) -> Figure:
    """Relative alignment loss of each layer: over the steps, and at the end as the mean of the last steps.

    The loss of a layer is the sum of squared errors over the teacher's sum of squares; 0 is the teacher's own output.

    Args:
        steps: the rows of a run's ``metrics.jsonl``; those without layers do not count.

    Raises:
        ValueError: no row has layers, as in a run without an alignment stage.
    """
    rows = [row for row in steps if row.get("layers")]
    if not rows:
        raise ValueError("no step has losses by layer: the run has no alignment stage")
    layers = [entry["layer"] for entry in rows[0]["layers"]]
    losses = [[entry["relative_loss"] for entry in row["layers"]] for row in rows]
    last = losses[-_LAST_STEPS:]
    ends = [sum(row[i] for row in last) / len(last) for i in range(len(layers))]

    figure = Figure(figsize=(9.2, 3.8), layout="constrained")
    curves, bars = figure.subplots(1, 2)
    shades = matplotlib.colormaps[_MAP]
    colors = [shades(i / max(1, len(layers) - 1) * 0.92) for i in range(len(layers))]  # short of pale yellow
    for i, layer in enumerate(layers):
        curves.plot(
            range(1, len(rows) + 1),
            [row[i] for row in losses],
            color=colors[i],
            linestyle=_LINES[i % len(_LINES)] if len(layers) <= 12 else "-",
            linewidth=1.8 if len(layers) <= 12 else 0.8,
            label=layer,
        )
    curves.set(xlabel="step", ylabel="relative loss")
    _log_scale(curves)
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(layers) <= 12:
        rows_of_legend = (len(layers) + 5) // 6
        curves.set_title("over the steps, by layer", pad=8 + 15 * rows_of_legend)  # the legend lies between
        curves.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(6, len(layers)), fontsize=8.5)
    else:
        curves.set_title("over the steps")
    bars.barh(range(len(layers)), ends, color=colors)
    bars.set(xlabel="relative loss", ylabel="layer", title=f"mean of the last {len(last)} steps")
    _number_rows(bars, layers)
    bars.grid(axis="y", visible=False)
    if len(layers) <= 16:
        for i, value in enumerate(ends):
            bars.annotate(
                f"{value:.4f}", (value, i), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
            )
        bars.margins(x=0.16)
    return figure


@_styled
def gates(evaluation: Mapping[str, Any]) -> Figure:
    """Mean gate of each layer and query head: 0 takes the window, 1 the mLSTM. One panel a model that has gates.

    Args:
        evaluation: the result of an evaluation with ``gates``.

    Raises:
        ValueError: no model has gates: the evaluation was made without them, or no model mixes two branches.
    """
    models = [model for model in evaluation["models"] if model.get("gates")]
    if not models:
        raise ValueError("no model has gates: evaluate with gates=True a model whose heads mix two branches")
    most = max((gate for model in models for row in model["gates"] for gate in row if gate is not None), default=0)
    top = min(1.0, max(0.05, math.ceil(most * 20) / 20))
    heads = max(len(row) for model in models for row in model["gates"])
    layers = max(len(model["gates"]) for model in models)
    width = min(14.0, len(models) * max(2.6, 0.46 * heads + 1.2) + 1.0)
    figure = Figure(figsize=(width, max(2.6, min(11.0, 0.32 * layers + 1.3))), layout="constrained")
    panels = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    for panel, model in zip(panels, models):
        image = _draw_gates(panel, model["gates"], top)
        panel.set_title(model["name"])
        panel.set_xlabel("query head")
    panels[0].set_ylabel("layer")
    missing = any(gate is None for model in models for row in model["gates"] for gate in row)
    label = "mean gate (0: window, 1: mLSTM" + ("; grey: one branch alone)" if missing else ")")
    figure.colorbar(image, ax=list(panels), label=label, fraction=0.05)
    return figure


def _draw_gates(panel: Axes, rows: Sequence[Sequence[float | None]], top: float) -> Any:
    width = max(len(row) for row in rows)
    values = [[math.nan if gate is None else gate for gate in row] + [math.nan] * (width - len(row)) for row in rows]
    panel.set_facecolor("#e6e6e6")  # what shows where there is no gate
    image = panel.imshow(values, cmap=_MAP, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    panel.grid(visible=False)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    if width * len(rows) > _ANNOTATED_CELLS:
        return image
    for layer, row in enumerate(rows):
        for head, gate in enumerate(row):
            text = "none" if gate is None else f"{gate:.2f}" if top > 0.5 else f"{gate:.3f}"
            color = "#555555" if gate is None else "white" if gate < 0.55 * top else "black"
            panel.text(head, layer, text, ha="center", va="center", color=color, fontsize=8)
    return image


@_styled
def win_and_tie(evaluation: Mapping[str, Any]) -> Figure:
    """Win-and-Tie rate C over alpha for each student: the share of tasks on which it has at least (1 - alpha) of the
    teacher's accuracy. A mark shows alpha*, where C has reached one half. Equal curves are one line.

    Args:
        evaluation: the result of an evaluation of a teacher and at least one student on tasks with accuracies.

    Raises:
        ValueError: no model has a curve.
    """
    models = [model for model in evaluation["models"] if model.get("c_alpha")]
    if not models:
        raise ValueError("no model has a Win-and-Tie curve: evaluate a teacher and a student on tasks with answers")
    figure = Figure(figsize=(6.4, 3.9), layout="constrained")
    axis = figure.subplots()
    axis.axhline(0.5, color="#888888", linewidth=0.9)
    axis.annotate("half of the tasks", (1, 0.5), xytext=(0, 3), textcoords="offset points", ha="right", color="#555555")
    for index, (names, model) in enumerate(_alike(models, lambda model: (model["c_alpha"], model["alpha_star"]))):
        curve, alpha = model["c_alpha"], model["alpha_star"]
        color, last = _COLORS[index % len(_COLORS)], len(curve) - 1
        axis.plot(
            [i / last for i in range(len(curve))],
            curve,
            drawstyle="steps-post",
            color=color,
            linestyle=_LINES[index % len(_LINES)],
            label=f"{names}   alpha* {alpha:.3f}",
        )
        reached = curve[min(last, math.ceil(alpha * last - 1e-9))]
        axis.plot(alpha, reached, _MARKERS[index % len(_MARKERS)], color=color, markersize=7, clip_on=False, zorder=5)
    axis.set(
        xlim=(0, 1), ylim=(-0.03, 1.03), xlabel="alpha, allowed relative loss of accuracy", ylabel="Win-and-Tie rate C"
    )
    axis.legend(loc="best")
    return figure


@_styled
def accuracy(evaluation: Mapping[str, Any]) -> Figure:
    """Accuracy of each model on each task with its standard error.

    Args:
        evaluation: the result of an evaluation on at least one task with answers.

    Raises:
        ValueError: no task has an accuracy.
    """
    models = evaluation["models"]
    tasks = [task["task"] for task in models[0]["tasks"] if "accuracy" in task]
    if not tasks:
        raise ValueError("no task has an accuracy")
    figure = Figure(figsize=(max(5.0, 1.0 + len(tasks) * (0.5 + 0.22 * len(models))), 3.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(models)
    for index, model in enumerate(models):
        scores = [task for task in model["tasks"] if "accuracy" in task]
        axis.bar(
            [t - 0.4 + width * (index + 0.5) for t in range(len(tasks))],
            [score["accuracy"] for score in scores],
            width * 0.92,
            yerr=[score["standard_error"] for score in scores],
            error_kw={"elinewidth": 1.0, "ecolor": "#333333"},
            color=_COLORS[index % len(_COLORS)],
            hatch=("", "//", "..", "xx", "\\\\", "++", "--")[index % 7],
            edgecolor="white",
            label=model["name"],
        )
    axis.set_xticks(range(len(tasks)), tasks)
    axis.set(ylim=(0, 1.08), ylabel="accuracy, with standard error")
    axis.grid(axis="x", visible=False)
    figure.legend(loc="outside upper center", ncols=min(5, len(models)))
    return figure


@_styled
def memory_over_context(models: Sequence[Mapping[str, Any]], *, longest: int = 1 << 17) -> Figure:
    """Bytes of one sequence's state over its length in tokens: constant for heads with a window or an mLSTM, growing
    for those with full attention. A black line is a model of the same size with full attention everywhere, one for
    each dtype of the states. Students of the same memory are one line.

    Args:
        models: ``name`` and ``state`` of each, as in the models of an evaluation or ``Model.describe()["state"]``.
        longest: the last length, in tokens.
    """
    figure = Figure(figsize=(6.4, 3.9), layout="constrained")
    axis = figure.subplots()
    lengths = [1 << power for power in range(6, max(7, longest.bit_length()))]
    for index, each in enumerate(sorted({model["state"]["teacher_bytes_per_token"] for model in models})):
        label = f"full attention, {each:,} bytes a token"
        axis.plot(lengths, [each * n for n in lengths], color="#000000", linestyle=_LINES[index], label=label)
    students = [model for model in models if not _is_full_attention(model["state"])]
    sizes = _alike(students, lambda model: [model["state"][key] for key in ("constant_bytes", "bytes_per_token")])
    for index, (names, model) in enumerate(sizes):
        state = model["state"]
        axis.plot(
            lengths,
            [state["constant_bytes"] + state["bytes_per_token"] * n for n in lengths],
            color=_COLORS[index % 6],
            linestyle=_LINES[index % len(_LINES)],
            marker=_MARKERS[index % len(_MARKERS)],
            label=names,
        )
    _over_context(axis, lengths)
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_locator(LogLocator(base=4, numticks=12))
    axis.yaxis.set_major_formatter(FuncFormatter(_bytes))
    axis.set_ylabel("state of one sequence")
    axis.legend()
    return figure


@_styled
def speed_over_context(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Tokens a second over the context length, one line a model and one panel a part ("prefill", "decode").

    Args:
        points: ``name``, ``part``, ``context`` (tokens) and ``tokens_per_second`` of each measurement, as
            `xhybrid.report.bench_over_context` makes them.

    Raises:
        ValueError: no points.
    """
    if not points:
        raise ValueError("there is no measurement to draw")
    parts = list(dict.fromkeys(point["part"] for point in points))
    names = list(dict.fromkeys(point["name"] for point in points))
    figure = Figure(figsize=(5.0 * len(parts) + 0.4, 3.7), layout="constrained")
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    for panel, part in zip(panels, parts):
        for index, name in enumerate(names):
            chosen = [point for point in points if point["part"] == part and point["name"] == name]
            chosen.sort(key=lambda point: point["context"])
            panel.plot(
                [point["context"] for point in chosen],
                [point["tokens_per_second"] for point in chosen],
                color=_COLORS[index % len(_COLORS)],
                linestyle=_LINES[index % len(_LINES)],
                marker=_MARKERS[index % len(_MARKERS)],
                label=name,
            )
        _over_context(panel, sorted({point["context"] for point in points if point["part"] == part}))
        panel.set_title({"decode": "writing, batch 1", "prefill": "reading, batch 1"}.get(part, part))
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].set_ylabel("tokens per second")
    panels[0].legend()
    return figure


def _log_scale(axis: Axes) -> None:
    axis.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_major_formatter(plain)
    low, high = axis.get_ylim()
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.yaxis.set_minor_formatter(plain if high < 30 * low else NullFormatter())


def _over_context(axis: Axes, lengths: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    shown = lengths if len(lengths) <= 7 else lengths[:: math.ceil(len(lengths) / 7)]
    axis.set_xticks(shown, [_tokens(n) for n in shown])
    axis.minorticks_off()
    axis.set_xlabel("context, tokens")


def _tokens(count: int) -> str:
    return f"{count // 1024}k" if count >= 1024 and count % 1024 == 0 else str(count)


def _bytes(size: float, _: Any = None) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.3g} {unit}"
        size /= 1024
    return ""


def _alike(
    models: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any]
) -> list[tuple[str, Mapping[str, Any]]]:
    """Models grouped by a key: the names of each group, and its first model."""
    groups: list[tuple[Any, list[Mapping[str, Any]]]] = []
    for model in models:
        value = key(model)
        group = next((members for known, members in groups if known == value), None)
        if group is None:
            groups.append((value, [model]))
        else:
            group.append(model)
    return [(", ".join(str(model["name"]) for model in members), members[0]) for _, members in groups]


def _is_full_attention(state: Mapping[str, int]) -> bool:
    return state["constant_bytes"] == 0 and state["bytes_per_token"] == state["teacher_bytes_per_token"]


def _number_rows(axis: Axes, layers: Sequence[int]) -> None:
    shown = range(0, len(layers), max(1, len(layers) // 16))
    axis.set_yticks(list(shown), [str(layers[i]) for i in shown])
    axis.invert_yaxis()


def _stages(steps: Steps) -> dict[str, list[Mapping[str, Any]]]:
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for row in steps:
        stages.setdefault(str(row.get("stage", "")), []).append(row)
    if not stages:
        raise ValueError("the run has no steps yet")
    return stages


def _series(rows: Steps, key: str) -> tuple[list[float], list[float]]:
    """Steps and values; a gap where a value is missing or not finite."""
    values = [row.get(key) for row in rows]
    return [row["step"] for row in rows], [v if isinstance(v, (int, float)) else math.nan for v in values]
