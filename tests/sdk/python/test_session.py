import numpy as np
import pytest

import xhybrid

TEXT = "Once upon a time"


@pytest.fixture
def session(model):
    with model.session(capacity=128) as session:
        session.feed(model.encode(TEXT, add_special=True))
        yield session


def greedy(session, count=8):
    return [token.id for token in session.stream(max_tokens=count)]


def test_a_session_counts_what_it_reads(model, session):
    count = len(model.encode(TEXT, add_special=True))
    assert session.position == count and session.state_bytes > 0
    token = session.next()
    assert isinstance(token, xhybrid.Token) and session.position == count + 1
    session.reset()
    assert session.position == 0


def test_logits_are_those_of_forward(model, session):
    logits = session.logits()
    expected = model.forward(model.encode(TEXT, add_special=True))[-1]
    assert logits.shape == (model.vocab_size,) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    kept = logits.copy()
    session.next()
    assert np.array_equal(logits, kept)  # a copy of one's own


def test_logits_before_the_first_token_are_refused(model):
    with pytest.raises(xhybrid.InvalidStateError):
        model.session(capacity=8).logits()


def test_a_snapshot_goes_on_where_it_was(session):
    state = session.snapshot()
    assert isinstance(state, bytes)
    expected = greedy(session)
    session.restore(state)
    assert greedy(session) == expected
    session.restore(memoryview(bytearray(state)))
    assert greedy(session) == expected


def test_a_fork_is_independent(session):
    fork = session.fork()
    expected = greedy(session)
    session.close()
    assert greedy(fork) == expected


def test_a_saved_session_loads_in_another(model, session, tmp_path):
    session.save(tmp_path / "state")
    expected = greedy(session)
    other = model.session(capacity=128)
    other.load(tmp_path / "state")
    assert greedy(other) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    with pytest.raises(FileNotFoundError):
        other.load(tmp_path / "missing")
    with pytest.raises(OSError):
        session.save(tmp_path / "missing" / "state")


def test_a_snapshot_that_is_none_is_refused(model, session):
    with pytest.raises(xhybrid.Error):
        session.restore(b"nothing of ours")
    with pytest.raises(xhybrid.Error):
        session.restore(session.snapshot()[:-5])
    with pytest.raises(TypeError):
        session.restore("text")
    with pytest.raises(BufferError):
        session.restore(memoryview(b"0123456789")[::2])


def test_a_snapshot_of_another_shape_is_refused(teacher_model, session):
    with pytest.raises(xhybrid.IncompatibleError):
        teacher_model.session(capacity=128).restore(session.snapshot())


def test_the_capacity_of_a_teacher_ends(teacher_model):
    session = teacher_model.session(capacity=4)
    with pytest.raises(xhybrid.Error, match="4"):
        session.feed([1, 5, 6, 7, 8])


def test_after_its_end_an_answer_goes_on_with_a_new_sampler(session):
    assert len(greedy(session, 1)) == 1
    with pytest.raises(xhybrid.InvalidStateError):
        session.next()
    assert len(greedy(session, 2)) <= 2


def test_a_batch_gives_what_its_sessions_would(model):
    prompts = ["Once upon a time", "The red ball", "Lily and Ben"]
    sessions = []
    for prompt in prompts:
        session = model.session(capacity=128)
        session.feed(model.encode(prompt, add_special=True))
        session.sampler(max_tokens=6)
        sessions.append(session)
    with model.batch(slots=4, capacity=128) as batch:
        for slot, session in enumerate(sessions):
            batch.put(slot, session)
        batch.put(3, sessions[0])
        batch.drop(3)
        ids = [[] for _ in prompts]
        while any(tokens := batch.next()):
            assert tokens[3] is None
            for slot, token in enumerate(tokens[:3]):
                if token is not None:
                    ids[slot].append(token.id)
        assert batch.state_bytes > 0
    assert ids == [greedy(session, 6) for session in sessions]


def test_a_batch_refuses_a_slot_that_it_does_not_have(model, session):
    batch = model.batch(slots=2)
    with pytest.raises(xhybrid.InvalidArgumentError, match="7"):
        batch.put(7, session)
    with pytest.raises(TypeError, match="a session is needed"):
        batch.put(0, model)
    with pytest.raises(xhybrid.InvalidArgumentError, match="slots"):
        model.batch(slots=0)
