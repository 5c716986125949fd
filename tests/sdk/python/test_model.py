import numpy as np
import pytest
from conftest import QUESTION

import xhybrid

TEXT = "Once upon a time there was a little girl."


def test_text_becomes_ids_and_ids_text(model):
    ids = model.encode(TEXT)
    assert all(isinstance(token, int) for token in ids)
    assert model.decode(ids) == TEXT
    assert model.encode(TEXT, add_special=True)[1:] == ids
    assert model.encode("") == [] and model.decode([]) == ""


def test_text_whose_tokens_are_shorter_than_characters(model):
    text = "日本語" * 50  # three bytes a character, none of them in the vocabulary as a whole
    assert model.decode(model.encode(text)) == text


def test_a_chat_is_rendered_by_the_models_template(model):
    assert model.chat(QUESTION).count("What is 7 times 5?") == 1
    assert model.chat(QUESTION) != model.chat(QUESTION, add_generation_prompt=False)
    with pytest.raises(xhybrid.InvalidArgumentError, match="content"):
        model.chat([{"role": "user"}])


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        lambda ids: np.array(ids, np.int32),
        lambda ids: np.array(ids, np.int64),
        lambda ids: np.array(ids, np.uint16),
        lambda ids: np.array(ids, np.uint64),
        lambda ids: np.repeat(np.array(ids, np.int32), 2)[::2],
        lambda ids: memoryview(np.array(ids, np.int32)),
        lambda ids: [np.int64(token) for token in ids],
        lambda ids: __import__("array").array("i", ids),
    ],
    ids=["list", "tuple", "int32", "int64", "uint16", "uint64", "strided", "memoryview", "scalars", "array"],
)
def test_ids_may_be_any_integers(model, make):
    ids = model.encode(TEXT)
    assert model.decode(make(ids)) == TEXT


def test_ids_of_another_library_come_through_dlpack(model):
    class Foreign:
        """A tensor that has DLPack alone."""

        def __init__(self, values):
            self.values = values

        def __len__(self):
            return len(self.values)

        def __dlpack__(self, **options):
            return self.values.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.values.__dlpack_device__()

    assert model.decode(Foreign(np.array(model.encode(TEXT), np.int64))) == TEXT


@pytest.mark.parametrize(
    "ids, error, words",
    [
        (np.zeros(3, np.float32), TypeError, "integers"),
        ([1.5], TypeError, r"ids\[0\] is float"),
        (["a"], TypeError, r"ids\[0\] is str"),
        ("text", TypeError, "ids is str"),
        (b"text", TypeError, "ids is bytes"),
        (None, TypeError, "NoneType"),
        (7, TypeError, "int"),
        (np.zeros((2, 2), np.int32), ValueError, "2 dimensions"),
        (np.int32(3), ValueError, "0 dimensions"),
        ([2**31], ValueError, r"ids\[0\] is out of range"),
        ([0, -(2**70)], ValueError, r"ids\[1\] is out of range"),
        (np.array([2**63], np.uint64), ValueError, r"ids\[0\] is out of range"),
    ],
)
def test_wrong_ids_are_refused_in_words(model, ids, error, words):
    for call in (model.decode, model.forward, model.score, model.session(capacity=8).feed):
        with pytest.raises(error, match=words):
            call(ids)


def test_an_id_out_of_the_vocabulary_is_refused(model):
    for ids in ([model.vocab_size], [-1]):
        with pytest.raises(xhybrid.InvalidArgumentError, match=str(ids[0])):
            model.forward(ids)


def test_forward_gives_rows_of_what_was_asked_for(model):
    ids = model.encode(TEXT, add_special=True)
    config = model.describe()["config"]
    logits = model.forward(ids)
    assert logits.dtype == np.float32 and logits.shape == (len(ids), model.vocab_size)
    assert model.forward(ids, "hidden.0").shape == (len(ids), config["hidden_size"])
    assert model.forward(ids, "layers.0.mixer.out").shape == (len(ids), config["heads"] * config["head_dim"])
    gates = model.forward(ids, "layers.0.mixer.gate")
    assert gates.shape == (len(ids), config["heads"]) and ((0 <= gates) & (gates <= 1)).all()
    with pytest.raises(xhybrid.InvalidArgumentError, match="hidden"):
        model.forward(ids, "nothing")
    with pytest.raises(xhybrid.InvalidArgumentError):
        model.forward([])


def test_score_is_the_log_softmax_of_forward(model):
    ids = model.encode(TEXT, add_special=True)
    logits = model.forward(ids).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = expected[np.arange(len(ids) - 1), ids[1:]]
    scores = model.score(ids)
    assert scores.dtype == np.float32 and scores.shape == (len(ids) - 1,)
    np.testing.assert_allclose(scores, expected, atol=1e-4)  # float32 logits of up to 30
    with pytest.raises(xhybrid.InvalidArgumentError, match="at least 2"):
        model.score(ids[:1])


def test_generate_is_what_stream_gives(model):
    tokens = list(model.stream(TEXT, max_tokens=12))
    assert [token.finished for token in tokens] == [False] * (len(tokens) - 1) + [True]
    assert "".join(token.piece for token in tokens) == model.generate(TEXT, max_tokens=12)
    assert len(tokens) <= 12


def test_messages_are_answered(teacher_model):
    assert teacher_model.generate(QUESTION, max_tokens=16) == "35"


def test_a_seed_repeats_and_another_differs(teacher_model):
    def text(seed):
        return teacher_model.generate("Once", max_tokens=24, temperature=1, top_k=50, top_p=0.9, seed=seed)

    assert text(1) == text(1) != text(2)


def test_stop_texts_end_an_answer(teacher_model):
    whole = teacher_model.generate(TEXT, max_tokens=40)
    stop = whole.split()[3]
    assert teacher_model.generate(TEXT, max_tokens=40, stop=stop) == whole[: whole.index(stop)]
    assert teacher_model.generate(TEXT, max_tokens=40, stop=["never seen", stop]) == whole[: whole.index(stop)]


@pytest.mark.parametrize(
    "options, words",
    [({"top_p": 2}, "top_p"), ({"temperature": -1}, "temperature"), ({"max_tokens": 0}, "max_tokens")],
)
def test_a_sampler_out_of_range_is_refused(model, options, words):
    with pytest.raises(xhybrid.InvalidArgumentError, match=words):
        model.generate("Once", **options)


def test_a_hugging_face_directory_loads_as_it_is_or_becomes_a_checkpoint(source, tmp_path, teacher_model):
    directory = source / "examples/teacher-llama-3m"
    expected = teacher_model.generate(QUESTION)
    assert xhybrid.Model.from_huggingface(directory).generate(QUESTION) == expected
    saved = xhybrid.Model.from_huggingface(directory, save_to=tmp_path / "saved.xhy")
    assert saved.generate(QUESTION) == expected
    assert len(xhybrid.Checkpoint.open(tmp_path / "saved.xhy")) > 10


def test_a_dtype_that_is_none_is_refused(student):
    with pytest.raises(xhybrid.InvalidArgumentError, match="bf16"):
        xhybrid.Model.load(student, dtype="f8")
    assert xhybrid.Model.load(student, dtype="bf16").vocab_size == 4096


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(xhybrid.NotFoundError, match="missing"):
        xhybrid.Model.load(tmp_path / "missing")
    (tmp_path / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(xhybrid.Error, match="abacus"):
        xhybrid.Model.from_huggingface(tmp_path)
