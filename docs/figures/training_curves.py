"""Curves of stage I and of experts, from the metrics.jsonl that `xhybrid distill` leaves in the directories of runs.

usage: training_curves.py SEED_DIRECTORY EXPERT_DIRECTORY [EXPERT_DIRECTORY ...] OUTPUT.svg      (needs matplotlib)
"""
import json
import os
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "libxhybrid"  # the same input gives the same file
matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
import matplotlib.pyplot as plt

AVERAGED = 8  # steps


def curve(directory, metric):
    """The metric of every step, averaged over the last few."""
    with open(os.path.join(directory, "metrics.jsonl")) as file:
        rows = [json.loads(line) for line in file]
    values = [row[metric] for row in rows if metric in row]
    return [sum(values[max(0, i + 1 - AVERAGED) : i + 1]) / min(i + 1, AVERAGED) for i in range(len(values))]


def main(seed, *experts, output):
    figure, (align, cross_entropy, divergence) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    align.plot(curve(seed, "relative_loss"), color="black")
    align.set_yscale("log")
    align.set_title("stage I: alignment loss over ||h||²")
    for expert in experts:
        name = os.path.basename(expert.rstrip("/")).split("-", 1)[-1]
        cross_entropy.plot(curve(expert, "cross_entropy"), label=name)
        divergence.plot(curve(expert, "kl"), label=name)
    cross_entropy.set_title("stage II: cross entropy, nats a token")
    divergence.set_title("stage II: KL on the teacher's top k")
    divergence.set_yscale("log")
    divergence.legend(frameon=False, fontsize=8)
    for axes in (align, cross_entropy, divergence):
        axes.set_xlabel("step")
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    figure.savefig(output, metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:-1], output=sys.argv[-1])
