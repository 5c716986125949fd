"""Accuracy and alpha* over the bytes that a token adds to the state, from reports of `xhybrid evaluate --output`.

usage: over_memory.py REPORT.json [REPORT.json ...] OUTPUT.svg      (needs matplotlib)
"""
import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "libxhybrid"  # the same input gives the same file
matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
import matplotlib.pyplot as plt


def share(model):
    return model["state"]["bytes_per_token"] / model["state"]["teacher_bytes_per_token"]


def main(*reports, output):
    figure, axes = plt.subplots(figsize=(7, 4))
    for report in reports:
        with open(report) as file:
            models = sorted(json.load(file)["models"], key=share)
        for index, task in enumerate(models[0]["tasks"]):
            points = [(share(model), model["tasks"][index]["accuracy"]) for model in models]
            axes.plot(*zip(*points), marker="o", label=task["task"])
        scored = [(share(model), model["alpha_star"]) for model in models if "alpha_star" in model]
        if len(models[0]["tasks"]) > 1:
            axes.plot(*zip(*scored), marker="x", linestyle="--", color="black", label="alpha*")
    axes.set_xlabel("bytes a token adds to the state, share of the teacher's")
    axes.set_ylabel("accuracy, alpha*")
    axes.set_ylim(0, 1.03)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(output, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:-1], output=sys.argv[-1])
