"""Whatever is used too late, twice, by the wrong thread or as something else raises, and the process goes on."""

import gc
import threading

import pytest

import xhybrid


def closed(thing):
    thing.close()
    assert thing.closed
    thing.close()
    return thing


def test_a_closed_runtime_refuses_new_work_and_lets_old_work_go_on(student):
    runtime = xhybrid.Runtime()
    model = xhybrid.Model.load(student, runtime=runtime)
    closed(runtime)
    for call in (
        runtime.report,
        runtime.plugins,
        lambda: xhybrid.Model.load(student, runtime=runtime),
        lambda: xhybrid.Checkpoint.open(student, runtime=runtime),
        lambda: xhybrid.Job("import", {}, runtime=runtime),
        lambda: xhybrid.schema("merge", runtime=runtime),
    ):
        with pytest.raises(xhybrid.InvalidStateError, match="the runtime is closed") as caught:
            call()
        assert caught.value.origin == "python"
    assert model.generate("Once", max_tokens=2)


def test_the_default_runtime_opens_anew_when_it_was_closed():
    first = xhybrid.default_runtime()
    assert xhybrid.default_runtime() is first
    first.close()
    assert not xhybrid.default_runtime().closed


def test_a_closed_model_refuses_and_its_session_goes_on(student):
    model = xhybrid.Model.load(student)
    session = model.session(capacity=32)
    closed(model)
    for call in (
        lambda: model.encode("a"),
        lambda: model.decode([1]),
        lambda: model.forward([1]),
        lambda: model.score([1, 2]),
        lambda: model.generate("a"),
        lambda: model.session(),
        lambda: model.batch(),
        model.describe,
        lambda: model.vocab_size,
    ):
        with pytest.raises(xhybrid.InvalidStateError, match="the model is closed"):
            call()
    session.feed([1, 2, 3])
    assert session.next().id >= 0


def test_a_closed_session_refuses(model):
    session = closed(model.session(capacity=8))
    for call in (
        lambda: session.feed([1]),
        session.logits,
        session.next,
        session.snapshot,
        lambda: session.restore(b""),
        session.fork,
        session.reset,
        session.sampler,
        lambda: session.position,
        lambda: session.state_bytes,
        lambda: list(session.stream()),
        lambda: model.batch().put(0, session),
    ):
        with pytest.raises(xhybrid.InvalidStateError, match="the session is closed"):
            call()


def test_a_closed_checkpoint_batch_and_job_refuse(student, model):
    checkpoint = closed(xhybrid.Checkpoint.open(student))
    for call in (
        checkpoint.verify,
        checkpoint.describe,
        lambda: checkpoint.names,
        lambda: checkpoint["lm_head.weight"],
    ):
        with pytest.raises(xhybrid.InvalidStateError, match="the checkpoint is closed"):
            call()
    with pytest.raises(xhybrid.InvalidStateError, match="the batch is closed"):
        closed(model.batch()).next()
    job = closed(xhybrid.Job("plan", {"teacher": student, "stages": [{"stage": "align", "steps": 1}]}))
    for call in (lambda: next(job), job.cancel, job.result):
        with pytest.raises(xhybrid.InvalidStateError, match="the job is closed"):
            call()


def test_a_stream_that_is_not_read_to_its_end_leaves_nothing(model):
    stream = model.stream("Once", max_tokens=50)
    next(stream)
    stream.close()
    stream = model.stream("Once", max_tokens=50)
    next(stream)
    del stream
    gc.collect()


def test_a_handle_is_not_taken_for_another(model, student):
    checkpoint = xhybrid.Checkpoint.open(student)
    with pytest.raises(TypeError, match="a model is needed"):
        xhybrid.Model(checkpoint._handle).describe()
    with pytest.raises(TypeError, match="a model is needed, not int"):
        xhybrid.Model(7).describe()
    with pytest.raises(TypeError):
        type(model._handle)()


def test_a_session_in_use_refuses_another_thread(model):
    session = model.session(capacity=2000)
    refused, done = [], threading.Event()

    def read():
        while not done.is_set():
            session.reset()
            session.feed([5] * 1500)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(100_000):
            try:
                session.position
            except xhybrid.InvalidStateError as error:
                refused.append(error)
                break
    finally:
        done.set()
        try:
            thread.join()
        except xhybrid.InvalidStateError:
            pass
    assert "in use by another thread" in refused[0].message


def test_closing_while_another_thread_computes_waits_for_it(model):
    session = model.session(capacity=4000)
    begun, outcome = threading.Event(), []

    def read():
        begun.set()
        try:
            session.feed([5] * 3000)
            outcome.append("read")
        except xhybrid.InvalidStateError as error:
            outcome.append(error.message)

    thread = threading.Thread(target=read)
    thread.start()
    begun.wait()
    session.close()
    thread.join()
    assert outcome in (["read"], ["the session is closed"])
    with pytest.raises(xhybrid.InvalidStateError):
        session.position


def test_interpreter_exit_with_everything_open(python, student):
    ran = python(
        "import sys, threading, xhybrid\n"
        "model = xhybrid.Model.load(sys.argv[1])\n"
        "session = model.session(); session.feed([1, 2, 3]); stream = model.stream('Once'); next(stream)\n"
        "view = xhybrid.Checkpoint.open(sys.argv[1])['model.norm.weight'].numpy()\n"
        "threading.Thread(target=lambda: model.generate('Once', max_tokens=500), daemon=True).start()\n",
        student,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
