import fcntl
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import termios

import pytest
from conftest import SOURCE, recipe

import xhybrid


def test_every_kind_has_a_schema():
    kinds = {kind["name"] for kind in xhybrid.schema()["kinds"]}
    assert kinds >= {"import", "export", "distill", "plan", "merge", "probe", "evaluate", "tokenize"}
    for kind in kinds:
        assert xhybrid.schema(kind)["options"]
    with pytest.raises(xhybrid.InvalidArgumentError, match="abacus"):
        xhybrid.schema("abacus")


def test_a_job_gives_events_and_then_a_result(source):
    job = xhybrid.Job("import", {"model": source / "examples/teacher-llama-3m", "dry_run": True})
    with pytest.raises(xhybrid.InvalidStateError, match="has not finished"):
        job.result()
    events = list(job)
    assert [event["kind"] for event in events][-1] == "checked"
    assert job.result()["family"] == "llama"
    assert list(job) == []


def test_distill_tells_of_every_step_and_leaves_a_student(teacher, tmp_path):
    events = []
    result = xhybrid.distill(recipe(teacher, tmp_path / "run"), on_progress=events.append)
    steps = [event for event in events if event["kind"] == "step"]
    assert [step["total_step"] for step in steps] == [1, 2] and all(step["loss"] > 0 for step in steps)
    assert isinstance(result, dict)
    assert xhybrid.Model.load(tmp_path / "run" / "student.xhy").vocab_size == 4096


def test_a_recipe_may_be_a_file_with_keywords_on_top(teacher, tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text(
        json.dumps(recipe(str(teacher), "nowhere", data=[{"path": str(SOURCE / "examples/data/mix.train.jsonl.gz")}]))
    )
    xhybrid.distill(file, output=tmp_path / "run", stages=[{"stage": "align", "steps": 1}])
    assert (tmp_path / "run" / "student.xhy").is_dir()


def test_plan_says_what_a_recipe_holds(teacher):
    planned = xhybrid.plan(
        teacher=teacher, stages=[{"stage": "align", "steps": 1}], student={"window": 64}, context=64, batch=2
    )
    assert planned["fits"] and planned["total_bytes"] > 0


def test_merge_evaluate_probe_and_export(teacher, student, second_student, tmp_path, source):
    merged = tmp_path / "merged.xhy"
    xhybrid.merge([student, second_student], merged, weights=[0.25, 0.75])
    a, b, both = (xhybrid.Checkpoint.open(path) for path in (student, second_student, merged))
    name = next(name for name in a if "xlstm" in name and a[name].dtype == "f32")
    mixed = 0.25 * a[name].numpy() + 0.75 * b[name].numpy()
    assert abs(both[name].numpy() - mixed).max() < 1e-6
    with pytest.raises(xhybrid.Error, match="exist"):
        xhybrid.merge([student, second_student], merged)
    xhybrid.merge([student, second_student], merged, method="slerp", options={"t": 0.5}, replace=True)

    result = xhybrid.evaluate([teacher, merged], source / "examples/data/math.test.jsonl", names=["t", "m"], limit=2)
    assert [model["name"] for model in result["models"]] == ["t", "m"]
    assert 0 <= result["models"][1]["alpha_star"] <= 1

    probed = xhybrid.probe(teacher, window=64, kinds=["copy"], lengths=[128], questions=1)
    assert "plan" in probed
    xhybrid.export(merged, tmp_path / "exported")
    assert (tmp_path / "exported" / "config.json").exists()


@pytest.mark.parametrize(
    "changes, words",
    [({"batch": "two"}, "batch"), ({"speed": 3}, "speed"), ({"stages": [{"stage": "abacus"}]}, "abacus")],
)
def test_a_recipe_that_is_not_allowed_is_refused(teacher, tmp_path, changes, words):
    with pytest.raises(xhybrid.Error, match=words):
        xhybrid.distill(recipe(teacher, tmp_path / "run", **changes))


def test_what_json_does_not_have_is_refused(teacher, tmp_path):
    with pytest.raises(TypeError, match="allowed"):
        xhybrid.distill(recipe(teacher, tmp_path / "run", seed=object()))


def test_cancelling_saves_and_says_how_to_go_on(teacher, tmp_path):
    long = recipe(teacher, tmp_path / "run", stages=[{"stage": "align", "steps": 500}])
    with xhybrid.Job("distill", long) as job:
        for event in job:
            if event["kind"] == "step":
                break
        job.cancel()
        with pytest.raises(xhybrid.CancelledError):
            next(job)
    assert list((tmp_path / "run").glob("step-*.xhy"))


def test_an_error_in_on_progress_is_the_callers(teacher, tmp_path):
    def fail(event):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        xhybrid.distill(recipe(teacher, tmp_path / "run"), on_progress=fail)


DISTILL = """
import json, sys, xhybrid
def show(event):
    print(json.dumps(event), flush=True)
xhybrid.distill(json.loads(sys.argv[1]), on_progress=show)
"""


def interrupted(long):
    """Starts a distillation in another process, sends SIGINT after its third step, gives its events and ending."""
    process = subprocess.Popen(
        [sys.executable, "-c", DISTILL, json.dumps(long, default=str)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if len([event for event in events if event["kind"] == "step"]) == 3:
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=60)
    return events, process.returncode, errors


def test_an_interrupt_saves_and_the_same_recipe_goes_on(teacher, tmp_path):
    run = tmp_path / "run"
    long = recipe(teacher, run, stages=[{"stage": "align", "steps": 5000}])
    _, status, errors = interrupted(long)
    assert status == -signal.SIGINT, errors
    assert "KeyboardInterrupt" in errors
    [saved] = run.glob("step-*.xhy")
    reached = int(saved.stem.removeprefix("step-"))
    assert reached >= 3
    xhybrid.Checkpoint.open(saved).verify()

    events, status, _ = interrupted(long)
    [plan] = [event for event in events if event["kind"] == "plan"]
    assert plan["total_step"] == reached
    assert status == -signal.SIGINT


def test_an_interrupt_in_the_loops_body_saves_too(teacher, tmp_path, caplog):
    long = recipe(teacher, tmp_path / "run", stages=[{"stage": "align", "steps": 5000}])
    with pytest.raises(KeyboardInterrupt) as caught, xhybrid.Job("distill", long) as job:
        for event in job:
            if event["kind"] == "step":
                raise KeyboardInterrupt
    assert list((tmp_path / "run").glob("step-*.xhy"))
    assert "run the same recipe" in caplog.text
    if sys.version_info >= (3, 11):
        assert any("run the same recipe" in note for note in caught.value.__notes__)
    assert job.closed


def test_an_interrupted_generation_leaves_a_session_that_works(model):
    session = model.session(capacity=256)
    session.feed([1, 2, 3])

    def pieces():
        for index, token in enumerate(session.stream(max_tokens=50)):
            yield token
            if index == 2:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        list(pieces())
    session.reset()
    session.feed([1, 2, 3])
    assert session.next().id >= 0


BAR = "import sys, xhybrid; xhybrid.import_model(sys.argv[1], sys.argv[2], progress=sys.argv[3] == 'yes')"


def on_a_terminal(*arguments):
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # a new one has no columns
    process = subprocess.Popen([sys.executable, "-c", BAR, *map(str, arguments)], stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how a terminal whose other end is closed says so
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    return shown.decode()


def test_a_bar_is_drawn_on_a_terminal_and_nowhere_else(tmp_path):
    pytest.importorskip("tqdm")
    source = SOURCE / "examples/teacher-llama-3m"
    assert "100%" in on_a_terminal(source, tmp_path / "a.xhy", "yes")
    assert on_a_terminal(source, tmp_path / "b.xhy", "no") == ""
    ran = subprocess.run(
        [sys.executable, "-c", BAR, str(source), str(tmp_path / "c.xhy"), "yes"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


NOTEBOOK = """
import sys, types
shell = types.SimpleNamespace(kernel=object(), config={})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
"""


def test_a_bar_is_drawn_in_a_notebook(tmp_path, python):
    pytest.importorskip("tqdm")
    ran = python(NOTEBOOK + BAR, SOURCE / "examples/teacher-llama-3m", tmp_path / "a.xhy", "yes")
    assert ran.returncode == 0 and "100%" in ran.stderr


def test_without_tqdm_there_is_no_bar(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    xhybrid.import_model(SOURCE / "examples/teacher-llama-3m", tmp_path / "a.xhy")
    assert pathlib.Path(tmp_path / "a.xhy").is_dir()
