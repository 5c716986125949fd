"""Reports and figures."""

import base64
import json
import math
import re
import shutil
import subprocess
import sys

import pytest

import xhybrid
from xhybrid import plots
from xhybrid.report import bench_over_context

FULL = {"constant_bytes": 0, "bytes_per_token": 3072, "teacher_bytes_per_token": 3072}
CONSTANT = {"constant_bytes": 508488, "bytes_per_token": 0, "teacher_bytes_per_token": 3072}


def steps_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def lines_of(axis):
    return {line.get_label(): line.get_xydata().tolist() for line in axis.get_lines()}


def curve(alpha):
    return [1.0 if percent >= 100 * alpha else 0.0 for percent in range(101)]


def test_training_curves_show_what_was_measured(run):
    steps = steps_of(run)
    axes = plots.training_curves(steps).axes
    loss, distilled = axes[0], axes[1]
    assert [axis.get_title() for axis in axes[:2]] == ["stage align, 3 steps", "stage distill, 2 steps"]
    assert lines_of(loss)["loss"] == [[step["step"], step["loss"]] for step in steps[:3]]
    assert lines_of(distilled).keys() == {"loss", "cross entropy", "KL to the teacher"}
    assert [axis.get_ylabel() for axis in axes[::2]] == ["loss", "learning rate", "tokens per second"]


def test_a_loss_that_is_missing_is_a_gap():
    steps = [{"stage": "align", "step": i, "loss": loss} for i, loss in enumerate([2.0, None, 1.0])]
    points = lines_of(plots.training_curves(steps).axes[0])["loss"]
    assert [math.isnan(y) for _, y in points] == [False, True, False]


def test_alignment_by_layer_shows_each_layer_and_the_mean_of_the_end(run):
    steps = steps_of(run)
    curves, bars = plots.alignment_by_layer(steps).axes
    assert list(lines_of(curves)) == ["0", "1", "2", "3", "4", "5"]
    expected = [sum(step["layers"][i]["relative_loss"] for step in steps[:3]) / 3 for i in range(6)]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(expected)


def test_gates_are_a_map_of_layers_and_heads():
    rows = [[0.1, 0.9], [None, 0.4], [0.25, 0.5]]
    panel = plots.gates({"models": [{"name": "s", "gates": rows}]}).axes[0]
    shown = panel.get_images()[0].get_array()
    assert shown.shape == (3, 2) and shown[0][1] == 0.9 and math.isnan(shown.data[1][0])
    assert [text.get_text() for text in panel.texts] == ["0.10", "0.90", "none", "0.40", "0.25", "0.50"]


def test_win_and_tie_marks_alpha_star():
    students = [{"name": f"s{alpha}", "c_alpha": curve(alpha), "alpha_star": alpha} for alpha in (0.0, 0.25)]
    axis = plots.win_and_tie({"models": [{"name": "teacher"}, *students]}).axes[0]
    lines = lines_of(axis)
    assert [0.24, 0.0] in lines["s0.25   alpha* 0.250"] and [0.25, 1.0] in lines["s0.25   alpha* 0.250"]
    marks = [line.get_xydata().tolist() for line in axis.get_lines() if line.get_marker() != "None"]
    assert marks == [[[0.0, 1.0]], [[0.25, 1.0]]]


def test_equal_curves_are_one_line_with_all_names():
    students = [{"name": name, "c_alpha": curve(0.5), "alpha_star": 0.5} for name in ("a", "b")]
    legend = plots.win_and_tie({"models": students}).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["a, b   alpha* 0.500"]


def test_memory_over_context_is_flat_without_a_cache_and_grows_with_one():
    axis = plots.memory_over_context([{"name": "t", "state": FULL}, {"name": "s", "state": CONSTANT}]).axes[0]
    lines = lines_of(axis)
    assert list(lines) == ["full attention, 3,072 bytes a token", "s"]
    assert lines["full attention, 3,072 bytes a token"][0] == [64, 64 * 3072]
    assert {y for _, y in lines["s"]} == {508488}


def test_a_dollar_in_a_name_is_a_dollar():
    models = [{"name": "$a_b$", "c_alpha": curve(0), "alpha_star": 0.0}]
    svg = plots.win_and_tie({"models": models})
    svg.canvas.draw()
    assert svg.axes[0].get_legend().get_texts()[0].get_text().startswith("$a_b$")


def test_speed_is_measured_at_each_context(teacher):
    points = bench_over_context(teacher, [32, 64], decode_tokens=2, repeats=1)
    found = {(point["name"], point["part"], point["context"]) for point in points}
    names = ("hybrid, window 64", "full attention")
    assert found == {(name, part, n) for name in names for part in ("prefill", "decode") for n in (32, 64)}
    assert all(point["tokens_per_second"] > 0 for point in points)
    panels = plots.speed_over_context(points).axes
    assert [len(lines_of(panel)) for panel in panels] == [2, 2]
    assert "tokens per second" in xhybrid.Report.from_bench(points).html()


def test_a_report_stands_alone(run, evaluation, tmp_path):
    report = xhybrid.Report.from_run(run) + xhybrid.Report.from_evaluation(evaluation)
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [
        "stages",
        "training curves",
        "alignment loss by layer",
        "scores",
        "accuracy",
        "Win-and-Tie rate",
        "memory over context",
        "gates by layer and head",
    ]
    assert list(report.figures) == [heading for heading in headings if heading not in ("stages", "scores")]
    pictures = re.findall('src="data:image/svg.xml;base64,([^"]+)"', page)
    assert len(pictures) == 6 and all(b"<svg" in base64.b64decode(picture) for picture in pictures)
    assert not re.findall("(?:src|href)=.(?!data:)", page)
    assert page == report.html()  # the same bytes again


def test_an_evaluation_is_read_from_its_file(evaluation, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(evaluation))
    page = xhybrid.Report.from_evaluation(tmp_path / "result.json").html()
    assert page == xhybrid.Report.from_evaluation(evaluation).html()
    accuracy = evaluation["models"][1]["tasks"][0]["accuracy"]
    assert f"<td>{accuracy:.3f} ±" in page and "perplexity" in page


def test_names_are_text_and_no_markup(evaluation):
    hostile = json.loads(json.dumps(evaluation).replace('"student"', '"<script>alert(1)</script>"'))
    page = xhybrid.Report.from_evaluation(hostile).html()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_a_half_written_line_is_passed_over(run, tmp_path):
    shutil.copy(run / "metrics.jsonl", tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "lo')
    assert "training curves" in xhybrid.Report.from_run(tmp_path).html()


def test_what_is_no_run_and_no_evaluation_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="metrics.jsonl"):
        xhybrid.Report.from_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="no steps"):
        xhybrid.Report.from_run(tmp_path)
    with pytest.raises(ValueError, match="not the result of an evaluation"):
        xhybrid.Report.from_evaluation({"models": [{"name": "x"}]})
    with pytest.raises(ValueError, match="no alignment stage"):
        plots.alignment_by_layer([{"stage": "distill", "step": 1, "loss": 1.0}])
    with pytest.raises(ValueError, match="no model has gates"):
        plots.gates({"models": [{"name": "teacher"}]})


def test_without_matplotlib_the_package_works_and_figures_say_what_is_missing(run):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import xhybrid; report = xhybrid.Report.from_run(sys.argv[1])\n"
        "try: report.html()\n"
        "except ImportError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(run)], check=False, capture_output=True, text=True)
    assert ended.stdout == "figures need matplotlib: pip install 'xhybrid[plots]'\n", ended.stderr


def test_drawing_leaves_pyplot_alone(run):
    xhybrid.Report.from_run(run).html()
    assert "matplotlib.pyplot" not in sys.modules
