"""A thousand tokens through the package and through C, taking turns. What is compared is the time that a core was busy;
the ratio is printed, not asserted: a test must not depend on what else the machine does."""

import os
import pathlib
import shutil
import statistics
import subprocess
import time

import pytest
from conftest import SOURCE

import xhybrid

TOKENS, TURNS = 50, 20  # a thousand of each side


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")  # a wheel is used without one; the comparison is with C
    library = pathlib.Path(xhybrid.__file__).parent / "lib"
    output = tmp_path_factory.mktemp("c") / "generate"
    command = [compiler, "-std=gnu11", "-O2", "generate.c", "-I", SOURCE / "abi", library / "libxhybrid.so.1"]
    subprocess.run([*command, f"-Wl,-rpath,{library}", "-o", output], check=True)
    return output


def generate(session):
    """The loop of generate.c."""
    session.reset()
    session.feed([1, 315, 15])
    total, left = 0, TOKENS
    while left > 0:
        for token in session.stream(temperature=1.0, max_tokens=TOKENS):
            total = (total * 31 + token.id) & 0xFFFFFFFF
            left -= 1
            if left == 0:
                break
    return total


def test_the_same_tokens_in_about_the_same_time(program, student, capsys):
    runtime = xhybrid.Runtime(threads=1)
    session = xhybrid.Model.load(student, runtime=runtime).session()
    theirs = subprocess.Popen([program, student, str(TOKENS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    of_c, of_python = [], []
    for _ in range(TURNS):
        theirs.stdin.write("\n")
        theirs.stdin.flush()
        nanoseconds, checksum = theirs.stdout.readline().split()
        of_c.append(int(nanoseconds))
        start = time.thread_time_ns()
        assert generate(session) == int(checksum)
        of_python.append(time.thread_time_ns() - start)
    theirs.stdin.close()
    assert theirs.wait() == 0
    with capsys.disabled():
        print(
            f"\n{TOKENS * TURNS} tokens: C {sum(of_c) / 1e6:.1f} ms, Python {sum(of_python) / 1e6:.1f} ms of a core; "
            f"ratio of medians {statistics.median(of_python) / statistics.median(of_c):.4f}, "
            f"of the least {min(of_python) / min(of_c):.4f}, {TURNS} turns of {TOKENS}"
        )


CALLS = 20_000

# What the library does takes no time here, so that what is left is the package's own.
INSTANT = """
#include <stdint.h>
void* xh_session_next(void* session, int32_t* token, const char** piece, int64_t* size, int32_t* finished) {
  *token = 5, *piece = "abc", *size = 3, *finished = 0;
  return session ? 0 : session;
}
"""

STREAM = """
import itertools, sys, time, xhybrid
session = xhybrid.Model.load(sys.argv[1]).session(capacity=8)
session.feed([1])
start = time.thread_time_ns()
pieces = sum(len(token.piece) for token in itertools.islice(session.stream(), int(sys.argv[2])))
print(time.thread_time_ns() - start, pieces)
"""


def test_what_the_package_itself_costs_a_token(student, tmp_path, python, capsys):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")  # a wheel is used without one; the comparison is with C
    (tmp_path / "instant.c").write_text(INSTANT)
    command = [compiler, "-shared", "-fPIC", "-O2", tmp_path / "instant.c", "-o", tmp_path / "instant.so"]
    subprocess.run(command, check=True)
    ran = python(STREAM, student, CALLS, env={**os.environ, "LD_PRELOAD": str(tmp_path / "instant.so")})
    assert ran.returncode == 0, ran.stderr
    nanoseconds, pieces = map(int, ran.stdout.split())
    assert pieces == 3 * CALLS
    with capsys.disabled():
        print(f"\nthe package itself: {nanoseconds / CALLS / 1000:.2f} microseconds a token")
