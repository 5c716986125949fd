import threading
import time
from concurrent.futures import ThreadPoolExecutor

PROMPTS = [f"Once upon a time there were {count} cats" for count in range(8)]


def write(model, prompt):
    with model.session(capacity=256) as session:
        session.feed(model.encode(prompt, add_special=True))
        return [token.id for token in session.stream(max_tokens=24)]


def test_eight_threads_with_a_session_each_write_what_one_does(model):
    alone = [write(model, prompt) for prompt in PROMPTS]
    start = threading.Barrier(8)

    def together(prompt):
        start.wait()
        return write(model, prompt)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(together, PROMPTS)) == alone


def test_python_runs_on_while_the_library_computes(model):
    """With the GIL held this thread would be given to only between calls."""
    ids = [5] * 3000
    done, turns = threading.Event(), []

    def compute():
        model.forward(ids, "hidden.1")
        done.set()

    thread = threading.Thread(target=compute)
    thread.start()
    while not done.is_set():
        time.sleep(0.001)
        turns.append(done.is_set())
    thread.join()
    assert turns.count(False) >= 3
