"""Models in EleutherAI's lm-evaluation-harness, from local files."""

import json
import math
import pathlib
import subprocess
import sys
from importlib import metadata

import lm_eval
import numpy as np
import pytest
from conftest import EXAMPLES
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

import xhybrid
from xhybrid.lm_eval import XHybridLM

QUESTION = "Question: What is 7 times 5?\nAnswer:"


def asked(kind, *arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def log_likelihoods(lm, *pairs):
    return lm.loglikelihood([asked("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)


@pytest.fixture(scope="module")
def lm(students):
    return XHybridLM(path=str(students[0]), dtype="f32")


@pytest.fixture(scope="module")
def teacher_lm(teacher):
    return XHybridLM(path=str(teacher), dtype="f32")


@pytest.fixture(scope="module", params=["teacher_lm", "lm"])
def either(request):
    return request.getfixturevalue(request.param)


def evaluated(path, tasks, **more):
    found = lm_eval.simple_evaluate(
        model="xhybrid",
        model_args={"path": str(path), "dtype": "f32"},
        tasks=tasks,
        task_manager=TaskManager(include_path="tasks", include_defaults=False),
        bootstrap_iters=0,
        **more,
    )
    answers = {task: [row["resps"] for row in rows] for task, rows in found["samples"].items()}
    return found["results"], answers


def test_the_harness_finds_the_class_by_its_name():
    assert get_model("xhybrid") is XHybridLM


def test_the_entry_point_is_the_class():
    points = metadata.entry_points(group="lm_eval.models", name="xhybrid")
    assert [point.load() for point in points] == [XHybridLM]


def test_a_harness_that_reads_entry_points_finds_the_class():
    """What harnesses after 0.4.13 do: the entry point stands in the registry until somebody asks for the model."""
    code = (
        "import importlib.metadata as m, lm_eval.models; from lm_eval.api import registry as r\n"
        "(point,) = m.entry_points(group='lm_eval.models', name='xhybrid')\n"
        "r.model_registry.register('xhybrid', target=point); print(r.get_model('xhybrid'))"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ended.stdout == "<class 'xhybrid.lm_eval.XHybridLM'>\n", ended.stderr


def test_a_loglikelihood_is_the_score_of_its_ids(either):
    for continuation in (" 35", " thirty-five of them, or so", " no"):
        whole = either.tok_encode(QUESTION + continuation)
        count = len(whole) - len(either.tok_encode(QUESTION))
        expected = either.model.score(whole)[-count:].sum(dtype=np.float64)
        ((found, _),) = log_likelihoods(either, (QUESTION, continuation))
        # A context is read at once and what follows token by token: products are summed in another order.
        assert found == pytest.approx(expected, abs=1e-3)


def test_greedy_is_what_the_model_would_write(either):
    answer = either.model.generate(QUESTION, max_tokens=8)
    (_, right), (_, wrong) = log_likelihoods(either, (QUESTION, answer), (QUESTION, answer + "!?"))
    assert (right, wrong) == (True, False)


def test_company_and_order_change_no_score(lm):
    pairs = [(QUESTION, " 35"), ("Once upon a time", " there was"), (QUESTION, " 36"), ("", "Once upon a time")]
    together = log_likelihoods(lm, *pairs)
    assert together == [log_likelihoods(lm, pair)[0] for pair in pairs]
    assert together == log_likelihoods(lm, *reversed(pairs))[::-1]


def test_a_text_without_context_follows_the_first_token(lm):
    ids = [lm.prefix_token_id, *lm.tok_encode("Once upon a time", add_special_tokens=False)]
    ((found, _),) = log_likelihoods(lm, ("", "Once upon a time"))
    assert found == pytest.approx(lm.model.score(ids).sum(dtype=np.float64), abs=1e-3)


def test_a_long_context_loses_its_beginning(students):
    short = XHybridLM(path=str(students[0]), dtype="f32", max_length=16)
    context, answer = "one" + " two three four five six seven" * 8, " eight"
    whole = short.tok_encode(context + answer)[-17:]
    count = len(short.tok_encode(context + answer)) - len(short.tok_encode(context))
    ((found, _),) = log_likelihoods(short, (context, answer))
    assert found == pytest.approx(short.model.score(whole)[-count:].sum(dtype=np.float64), abs=1e-3)
    with pytest.raises(ValueError, match=r"continuation has \d+ tokens; allowed: 16"):
        log_likelihoods(short, ("a", context))


def test_a_rolling_loglikelihood_is_the_score_of_the_text(lm):
    text = json.loads((EXAMPLES / "data/stories.test.jsonl").read_text().splitlines()[0])["text"]
    ids = [lm.prefix_token_id, *lm.tok_encode(text, add_special_tokens=False)]
    expected = lm.model.score(ids).sum(dtype=np.float64)
    asks = [asked("loglikelihood_rolling", text), asked("loglikelihood_rolling", "")]
    assert lm.loglikelihood_rolling(asks, disable_tqdm=True) == [pytest.approx(expected), 0]


def test_windows_of_a_rolling_loglikelihood_predict_each_token_once(students):
    short = XHybridLM(path=str(students[0]), dtype="f32", max_length=32)
    text = "The cat sat on the mat and looked at the moon. " * 6
    ids = [short.prefix_token_id, *short.tok_encode(text, add_special_tokens=False)]
    expected, done = 0.0, 1  # tokens with a score; the first one has none
    while done < len(ids):
        end = min(len(ids), done + 31)
        window = ids[max(0, end - 32) : end]
        expected += short.model.score(window)[-(end - done) :].sum(dtype=np.float64)
        done = end
    (found,) = short.loglikelihood_rolling([asked("loglikelihood_rolling", text)], disable_tqdm=True)
    assert found == pytest.approx(expected)


def test_answers_are_greedy_and_end_before_their_stop_text(teacher_lm):
    prompt = teacher_lm.apply_chat_template([{"role": "user", "content": "What is 7 times 5?"}])
    whole, cut, short = teacher_lm.generate_until(
        [
            asked("generate_until", prompt, {"max_gen_toks": 24}),
            asked("generate_until", prompt, {"until": "5", "max_gen_toks": 24}),
            asked("generate_until", prompt, {"until": ["never"], "max_new_tokens": 1}),
        ],
        disable_tqdm=True,
    )
    assert whole == teacher_lm.model.generate([{"role": "user", "content": "What is 7 times 5?"}], max_tokens=24)
    assert "5" in whole and cut == whole.split("5")[0]
    assert whole.startswith(short) and len(short) < len(whole)


def test_sampling_depends_on_the_seed_alone(lm):
    given = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 12}
    asks = [asked("generate_until", QUESTION, {**given, "seed": seed}) for seed in (1, 2, 1)]
    first, second, again = lm.generate_until(asks, disable_tqdm=True)
    assert first == again and first != second


@pytest.mark.parametrize("given", [{"num_beams": 4}, {"max_gen_toks": 100000}])
def test_what_cannot_be_generated_is_refused(lm, given):
    with pytest.raises(ValueError, match="num_beams|allowed: fewer than 4096"):
        lm.generate_until([asked("generate_until", "a", given)], disable_tqdm=True)


def test_a_conversation_is_rendered_or_left_open(lm):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well,"}]
    closed = lm.model.chat(messages, add_generation_prompt=False)
    assert lm.apply_chat_template(messages[:1]) == lm.model.chat(messages[:1])
    left_open = lm.apply_chat_template(messages, add_generation_prompt=False)
    assert closed.startswith(left_open) and left_open.endswith("Well,") and closed != left_open


def test_names_follow_tokenizer_and_template(lm, teacher_lm):
    assert lm.tokenizer_name == teacher_lm.tokenizer_name != "xhybrid-"
    assert "<|im_start|>user\n{content}" in lm.chat_template(True)
    assert lm.chat_template(False) is None


TASKS = ["local_arc_easy", "local_arc_challenge", "local_gsm8k", "local_humaneval", "local_math", "local_stories"]


def test_batch_size_changes_no_score(students):
    alone, together = (evaluated(students[0], TASKS, batch_size=size, limit=2) for size in (1, 8))
    assert alone == together
    assert alone[0].keys() == set(TASKS)


def test_the_domain_tests_score_as_they_do_in_the_library(teacher):
    results, _ = evaluated(teacher, ["local_math"], apply_chat_template=True)
    ours = xhybrid.evaluate([teacher], ["tasks/math.jsonl"], progress=False)["models"][0]["tasks"][0]
    assert results["local_math"]["exact_match,none"] == ours["accuracy"] > 0


def test_a_rolling_loglikelihood_is_the_perplexity_of_the_library(teacher):
    lm = XHybridLM(path=str(teacher))
    texts = [json.loads(line)["text"] for line in open("tasks/stories.jsonl", encoding="utf-8")]
    found = sum(lm.loglikelihood_rolling([asked("loglikelihood_rolling", text) for text in texts], disable_tqdm=True))
    tokens = sum(len(lm.tok_encode(text, add_special_tokens=False)) for text in texts)
    ours = xhybrid.evaluate([teacher], ["tasks/stories.jsonl"], progress=False)["models"][0]["tasks"][0]
    assert math.exp(-found / tokens) == pytest.approx(ours["perplexity"], rel=1e-9)


@pytest.fixture
def installed():
    command = [sys.executable, "-m", "xhybrid.lm_eval"]
    written = subprocess.run([*command, "--install"], check=True, capture_output=True, text=True).stdout.split()
    yield pathlib.Path(sys.executable).with_name("lm_eval")
    subprocess.run([*command, "--uninstall"], check=True)
    assert not any(pathlib.Path(path).exists() for path in written)


def evaluates(program, teacher, place):
    command = [*program, "--model", "xhybrid", "--model_args", f"path={teacher}", "--include_path", "tasks"]
    command += ["--tasks", "local_arc_easy", "--limit", "2", "--batch_size", "auto", "--device", "cpu"]
    ended = subprocess.run([*command, "--output_path", place], check=False, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr
    assert "|local_arc_easy|" in ended.stdout
    (written,) = place.rglob("results_*.json")
    assert json.loads(written.read_text())["config"]["model_num_parameters"] == 3148224


# Most of its time the harness reads its own thousands of tasks.
def test_the_module_takes_the_arguments_of_the_harness(teacher, tmp_path):
    evaluates([sys.executable, "-m", "xhybrid.lm_eval"], teacher, tmp_path)


def test_the_program_of_the_harness_finds_the_model(installed, teacher, tmp_path):
    evaluates([installed], teacher, tmp_path)
