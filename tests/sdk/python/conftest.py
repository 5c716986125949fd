"""Checkpoints made once, by the package itself, and what every test needs."""

import os
import pathlib
import subprocess
import sys

import pytest

import xhybrid

SOURCE = pathlib.Path(os.environ["XHYBRID_SOURCE"])
QUESTION = [{"role": "user", "content": "What is 7 times 5?"}]


def recipe(teacher, output, **changes):
    """A distillation that takes a second."""
    made = {
        "teacher": teacher,
        "output": output,
        "student": {"window": 64},
        "stages": [{"stage": "align", "steps": 2}],
        "data": [{"path": SOURCE / "examples/data/mix.train.jsonl.gz"}],
        "batch": 2,
        "context": 64,
    }
    made.update(changes)
    return made


@pytest.fixture(scope="session")
def source():
    return SOURCE


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="session")
def teacher(made):
    xhybrid.import_model(SOURCE / "examples/teacher-llama-3m", made / "teacher.xhy")
    return made / "teacher.xhy"


@pytest.fixture(scope="session")
def student(made, teacher):
    xhybrid.distill(recipe(teacher, made / "a"))
    return made / "a" / "student.xhy"


@pytest.fixture(scope="session")
def second_student(made, teacher):
    xhybrid.distill(recipe(teacher, made / "b", seed=1))
    return made / "b" / "student.xhy"


@pytest.fixture(scope="session")
def model(student):
    return xhybrid.Model.load(student)


@pytest.fixture(scope="session")
def teacher_model(teacher):
    return xhybrid.Model.load(teacher)


@pytest.fixture
def python():
    """Runs a program in a process of its own: python(code, *arguments)."""

    def run(code, *arguments, **options):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, **options)

    return run
