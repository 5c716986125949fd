"""A tour of libxhybrid in Python: a checkpoint's tensor, a streamed answer, an evaluation against the teacher, a merge.

    python tour.py TEACHER STUDENT_A STUDENT_B TASK.jsonl MERGED

tour.c, tour.cc, tour.rs and Tour.java are the same program and print the same bytes.
"""

import functools
import operator
import sys

import xhybrid

TENSOR = "model.norm.weight"


def total(tensor):
    """The sum in double, in index order: what sum() and NumPy give is rounded in another order."""
    return functools.reduce(operator.add, tensor.float32().ravel().tolist(), 0.0)


def show_tensor(path):
    with xhybrid.Checkpoint.open(path) as checkpoint:
        checkpoint.verify()  # every byte of every file
        tensor = checkpoint[TENSOR]  # a view of the mapped file
        shape = ",".join(map(str, tensor.shape))
        print(f"tensor {TENSOR} {tensor.dtype} [{shape}] sum {total(tensor):.6f}")


def answer(path):
    with xhybrid.Model.load(path) as model, model.session(capacity=512) as session:
        prompt = model.chat([{"role": "user", "content": "What is 7 times 5?"}])
        ids = model.encode(prompt, add_special=True)
        print("prompt", *ids)
        session.feed(ids)
        text = ""
        print("tokens", end="")
        for token in session.stream(temperature=0, max_tokens=48):
            print(f" {token.id}", end="", flush=True)
            text += token.piece
        print("\ntext", text.replace("\n", "\\n"))


def evaluate(teacher, student, task):
    result = xhybrid.evaluate([teacher, student], [task], names=["teacher", "student"], limit=16, progress=False)
    for model in result["models"]:
        for row in model["tasks"]:
            print(f"accuracy {model['name']} {row['task']} {row['accuracy']:.6f}")
    # The smallest share of the teacher's accuracy to be given up for the student to win or tie everywhere.
    print(f"alpha* {result['models'][1]['alpha_star']:.6f}")


def merge(a, b, output):
    xhybrid.merge([a, b], output, method="slerp", options={"t": 0.5}, replace=True, progress=False)
    with xhybrid.Checkpoint.open(output) as merged:
        print(f"merged {len(merged)} tensors, norm sum {total(merged[TENSOR]):.6f}")


def main(arguments):
    if len(arguments) != 5:
        print("usage: tour TEACHER STUDENT_A STUDENT_B TASK.jsonl MERGED", file=sys.stderr)
        sys.exit(2)
    teacher, a, b, task, merged = arguments
    print("xhybrid", xhybrid.release())
    show_tensor(a)
    answer(a)
    evaluate(teacher, a, task)
    merge(a, b, merged)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except xhybrid.Error as error:
        sys.stdout.flush()
        sys.exit(str(error))
