"""Merge strategies written in Python."""

import subprocess
import sys
import threading

import numpy as np
import pytest

import xhybrid

THREADS = set()
KEPT = []


@xhybrid.merge_strategy("py_mean", elementwise=True)
def py_mean(models, base, options):
    THREADS.add(threading.get_ident())
    return (sum(model.astype(np.float64) for model in models) * (1 / len(models))).astype(np.float32)


@xhybrid.merge_strategy("py_step", options={"share": {"default": 0.5, "min": 0, "max": 1}}, needs_base=True)
def py_step(models, base, options, name):
    KEPT.append(models[0])
    return base + np.float32(options["share"]) * (models[0] - base) if "xlstm" in name else base


@xhybrid.merge_strategy("py_options", options={"a": 1, "b": True, "c": "x", "d": [0.5, 2.0], "e": 1.0}, models=(1, 2))
def py_options(models, base, options):
    raise LookupError(f"got {options}")


def returning(name, result):
    xhybrid.merge_strategy(name)(lambda models, base, options: result(models))


returning("py_short", lambda models: models[0][:-1])
returning("py_double", lambda models: models[0].astype(np.float64))
returning("py_list", lambda models: [0.0])
returning("py_matrix", lambda models: models[0][:, None])
returning("py_exit", lambda models: sys.exit(3))


def tensors_of(path):
    with xhybrid.Checkpoint.open(path) as checkpoint:
        return {name: checkpoint[name].float32().ravel() for name in checkpoint}


def merged(students, output, method, **more):
    xhybrid.merge(students, output, method, progress=False, replace=True, **more)
    return (output / "tensors-00000.bin").read_bytes()


def test_a_mean_in_python_is_that_of_linear(students, tmp_path):
    ours = merged(students, tmp_path / "ours.xhy", "py_mean")
    assert ours == merged(students, tmp_path / "theirs.xhy", "linear")


def test_an_elementwise_strategy_is_called_from_several_threads(students, tmp_path):
    THREADS.clear()
    with xhybrid.Runtime(threads=4) as runtime:
        merged(students, tmp_path / "m.xhy", "py_mean", runtime=runtime)
    assert len(THREADS) > 1


def test_base_options_and_names_arrive(students, tmp_path):
    merged(students[:1] * 2, tmp_path / "m.xhy", "py_step", base=students[1], options={"share": 1})
    result, model, base = (tensors_of(path) for path in (tmp_path / "m.xhy", students[0], students[1]))
    for name in result:
        expected = base[name] + np.float32(1) * (model[name] - base[name]) if "xlstm" in name else base[name]
        np.testing.assert_array_equal(result[name], expected, err_msg=name)


def test_what_a_function_keeps_stays_valid(students, tmp_path):
    KEPT.clear()
    merged(students[:1] * 2, tmp_path / "m.xhy", "py_step", base=students[1])
    assert [kept.tobytes() for kept in KEPT] == [
        values.tobytes() for _, values in sorted(tensors_of(students[0]).items())
    ]


def test_options_have_their_types(students, tmp_path):
    with pytest.raises(xhybrid.Error, match=r"got .*'a': 1, 'b': True, 'c': 'x', 'd': \[0.5, 2.0\], 'e': 3.0"):
        merged(students, tmp_path / "m.xhy", "py_options", options={"e": 3})


def test_an_exception_becomes_an_error_with_its_text_and_place(students, tmp_path):
    with pytest.raises(xhybrid.Error) as caught:
        merged(students, tmp_path / "m.xhy", "py_options")
    assert caught.value.origin == "merge.py_options"
    assert caught.value.message.startswith("LookupError: got {")
    assert "(test_merges.py, line " in caught.value.message
    assert not (tmp_path / "m.xhy").exists()


@pytest.mark.parametrize(
    "method, words",
    [
        ("py_short", r"shape \[\d+\]; allowed: \[\d+\]"),
        ("py_matrix", r"shape \[\d+, 1\]; allowed: \[\d+\]"),
        ("py_double", "float64; allowed: float32"),
        ("py_list", "list; allowed: a NumPy array"),
        ("py_exit", "SystemExit: 3"),
    ],
)
def test_what_is_not_a_float32_array_of_the_size_is_refused(students, tmp_path, method, words):
    with pytest.raises(xhybrid.InvalidArgumentError, match=words) as caught:
        merged(students, tmp_path / "m.xhy", method)
    assert caught.value.origin == f"merge.{method}"


def test_options_are_checked_before_the_function_is_called(students, tmp_path):
    KEPT.clear()
    with pytest.raises(xhybrid.InvalidArgumentError, match='"share" is 2'):
        merged(students, tmp_path / "m.xhy", "py_step", base=students[1], options={"share": 2})
    with pytest.raises(xhybrid.InvalidArgumentError, match='"base" is missing'):
        merged(students, tmp_path / "m.xhy", "py_step")
    with pytest.raises(xhybrid.InvalidArgumentError, match="allowed for py_options: 1 to 2"):
        merged(students + students[:1], tmp_path / "m.xhy", "py_options")
    assert KEPT == []


def test_a_cancelled_merge_writes_nothing(students, tmp_path):
    recipe = {"models": students, "method": "py_mean", "output": tmp_path / "m.xhy"}
    with xhybrid.Job("merge", recipe) as job, pytest.raises(xhybrid.CancelledError):
        for _ in job:
            job.cancel()
    assert not (tmp_path / "m.xhy").exists()


def test_an_interrupt_inside_the_function_is_raised_again(students, tmp_path):
    @xhybrid.merge_strategy("py_interrupted")
    def interrupted(models, base, options):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merged(students, tmp_path / "m.xhy", "py_interrupted")
    assert not (tmp_path / "m.xhy").exists()


def test_the_last_definition_counts_and_reaches_the_default_runtime(students, tmp_path):
    xhybrid.merge_strategy("py_again")(lambda models, base, options: models[0])
    merged(students, tmp_path / "first.xhy", "py_again")
    xhybrid.merge_strategy("py_again")(lambda models, base, options: models[1])
    merged(students, tmp_path / "second.xhy", "py_again")
    for student, name in zip(students, ("first.xhy", "second.xhy")):
        expected, found = tensors_of(student), tensors_of(tmp_path / name)
        assert found.keys() == expected.keys() and all((found[key] == expected[key]).all() for key in found)
    assert xhybrid.merge_strategies().count("py_again") == 1


def test_it_is_a_plugin_like_any_other():
    plugin = next(found for found in xhybrid.Runtime().plugins() if found.name == "py_step")
    assert (plugin.kind, plugin.version, plugin.usable) == ("merge", "python", True)
    assert [option["name"] for option in plugin.options["options"]] == ["share"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "Py Mean"},
        {"name": ""},
        {"name": "x", "models": (3, 2)},
        {"name": "x", "models": (0, 2)},
        {"name": "x", "options": {"a": None}},
        {"name": "x", "options": {"a": {"default": 1, "maximum": 2}}},
        {"name": "x", "options": {"a": {"type": "complex"}}},
    ],
)
def test_definitions_that_are_not_allowed_are_refused(arguments):
    with pytest.raises(ValueError):
        xhybrid.merge_strategy(**arguments)


LEFT_OPEN = """
import sys, xhybrid
@xhybrid.merge_strategy("left", elementwise=True)
def left(models, base, options):
    return models[0]
job = xhybrid.Job("merge", {"models": sys.argv[1:3], "method": "left", "output": sys.argv[3]})
next(job)
print(xhybrid.merges.plugin_paths()[0])
import atexit; atexit.register(lambda: print("ending"))
import builtins; builtins.kept = job  # freed when the interpreter has ended
"""


def test_a_process_that_ends_in_the_middle_of_a_merge_leaves_no_trace(students, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, *map(str, students), str(tmp_path / "m.xhy")],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    plugin, last = ended.stdout.split()
    assert (ended.returncode, last, ended.stderr) == (0, "ending", "")
    assert subprocess.run(["test", "-e", plugin], check=False).returncode == 1
