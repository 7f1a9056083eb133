"""Draw docs/claims.png from docs/claims.csv: how the paper's claims fare on real emotional clips.

Run `.venv/bin/python benchmarks/claims_figure.py`. The table has one row per training and person: how many of the
person's clips are predicted correctly by the network of the fold that left this person out. It was written from the
results of the trainings of recipe `light` that docs/learning.md describes.
"""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import bootstrap

DOCS = Path(__file__).parents[1] / "docs"
TABLE, PICTURE = DOCS / "claims.csv", DOCS / "claims.png"
REFERENCE, CHANCE = "end_to_end", 1 / 6
LABELS = {
    REFERENCE: "end to end,\ncross-attention",
    "concat": "concatenation",
    "late": "late fusion",
    "sound": "sound alone",
    "frozen": "frozen networks",
    "scratch": "from scratch",
    "scene": "frames alone",
}
COLORS = {REFERENCE: "#0b6e4f"}
OTHERS = "#5b6770"

# The share of right clips of each person, in the order of the table, by seed.
Trainings = dict[str, NDArray[np.float64]]


def main() -> None:
    trainings = read()
    figure = Figure(figsize=(9.2, 3.6), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[5, 4])
    for row, variant in enumerate(LABELS):
        draw_accuracies(left, row, variant, trainings[variant])
        if variant != REFERENCE:
            draw_difference(right, row, paired_differences(trainings[REFERENCE], trainings[variant]))
    left.set_yticks(range(len(LABELS)), LABELS.values())
    left.invert_yaxis()
    left.axvline(CHANCE, color=OTHERS, linestyle=":", linewidth=1)
    left.annotate("chance", (CHANCE, 0), xytext=(4, 0), textcoords="offset points", color=OTHERS, va="center")
    left.set_xlabel("accuracy on people unseen in training\n(each mark is one seed)")
    left.set_xlim(0.1, 0.7)
    right.axvline(0, color=OTHERS, linewidth=1)
    right.set_xlabel("end to end minus this\n(95% interval over the ten people)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.25)
    figure.savefig(PICTURE, metadata={"Software": None})


def read() -> dict[str, Trainings]:
    shares: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with TABLE.open(newline="") as file:
        for row in csv.DictReader(file):
            shares[row["variant"]][row["seed"]].append(int(row["right"]) / int(row["clips"]))
    return {variant: {seed: np.array(values) for seed, values in each.items()} for variant, each in shares.items()}


def draw_accuracies(axes: Axes, row: int, variant: str, trainings: Trainings) -> None:
    color, below = COLORS.get(variant, OTHERS), Counter[str]()
    for shares in trainings.values():
        accuracy, place = float(shares.mean()), f"{shares.mean():.4f}"
        axes.scatter(accuracy, row + 0.13 * below[place], color=color, zorder=3)
        below[place] += 1  # trainings with the same accuracy are drawn one below the other
    mean = float(np.mean([shares.mean() for shares in trainings.values()]))
    axes.plot([mean, mean], [row - 0.3, row + 0.3], color=color, linewidth=2)
    axes.annotate(f"{mean:.3f}".lstrip("0"), (mean, row - 0.32), ha="center", va="bottom", color=color, fontsize=8)


def paired_differences(reference: Trainings, other: Trainings) -> NDArray[np.float64]:
    """The difference of each person, a mean over the trainings that both have: (persons,)."""
    return np.mean([reference[key] - other[key] for key in reference.keys() & other.keys()], axis=0)


def draw_difference(axes: Axes, row: int, differences: NDArray[np.float64]) -> None:
    mean = float(differences.mean())
    low, high = bootstrap((differences,), np.mean, method="percentile", rng=0).confidence_interval
    axes.plot([low, high], [row, row], color=OTHERS, linewidth=2)
    axes.scatter(mean, row, color=OTHERS, zorder=3)
    label = f"{mean:+.3f} ({low:.3f} to {high:.3f})".replace("0.", ".")
    axes.annotate(label, (high, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)


if __name__ == "__main__":
    main()
