"""Checkpoints made once, by the package itself."""

import os
import pathlib

import pytest

import xhybrid

EXAMPLES = pathlib.Path(os.environ["XHYBRID_SOURCE"]) / "examples"


def distilled(teacher, output, **changes):
    recipe = {
        "teacher": teacher,
        "output": output,
        "student": {"window": 64},
        "stages": [{"stage": "align", "steps": 3}],
        "data": [{"path": EXAMPLES / "data/mix.train.jsonl.gz"}],
        "batch": 2,
        "context": 64,
    }
    xhybrid.distill({**recipe, **changes}, progress=False)
    return output / "student.xhy"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="session")
def teacher(made):
    xhybrid.import_model(EXAMPLES / "teacher-llama-3m", made / "teacher.xhy", progress=False)
    return made / "teacher.xhy"


@pytest.fixture(scope="session")
def run(made, teacher):
    """The directory of a run with both stages."""
    stages = [{"stage": "align", "steps": 3}, {"stage": "distill", "steps": 2}]
    distilled(teacher, made / "run", stages=stages)
    return made / "run"


@pytest.fixture(scope="session")
def students(made, teacher, run):
    return [run / "student.xhy", distilled(teacher, made / "other", seed=7)]


@pytest.fixture(scope="session")
def evaluation(teacher, students):
    """Teacher and a student on two domains, with gates."""
    tasks = [EXAMPLES / "data/math.test.jsonl", EXAMPLES / "data/stories.test.jsonl"]
    return xhybrid.evaluate(
        [teacher, students[0]], tasks, names=["teacher", "student"], limit=2, gates=True, progress=False
    )
