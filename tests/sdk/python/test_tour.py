import subprocess
import sys

from conftest import SOURCE


def tour(*arguments):
    program = SOURCE / "examples/tour/tour.py"
    return subprocess.run(
        [sys.executable, program, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=300
    )


def test_the_tour_prints_a_line_for_each_of_its_steps(teacher, student, second_student, tmp_path):
    ran = tour(teacher, student, second_student, SOURCE / "examples/data/math.test.jsonl", tmp_path / "merged.xhy")
    assert (ran.returncode, ran.stderr) == (0, "")
    first = [line.split()[0] for line in ran.stdout.splitlines()]
    assert first == ["xhybrid", "tensor", "prompt", "tokens", "text", "accuracy", "accuracy", "alpha*", "merged"]


def test_an_error_of_the_tour_is_one_line(tmp_path):
    ran = tour("a", tmp_path / "missing", "c", "d", "e")
    assert ran.returncode == 1
    assert ran.stderr.startswith("core: ") and ran.stderr.count("\n") == 1
