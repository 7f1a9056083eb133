"""What a step of a recipe costs on this machine with other settings: precision, memory layout, optimiser, threads.

example:
  .venv/bin/python benchmarks/steps.py demo small light    (seven minutes on two cores)
writes:
  Prints, for each recipe and variant, the lowest and the highest median of the rounds, in ms per step, and the median
  over the rounds of the ratio to the recipe as it is. Prints the same as JSON.

The variants take turns, round by round. Each changes one thing, and takes steps of the trainer on batches in memory, of
clips of noise as long as the recipe stores them.
"""

import argparse
import contextlib
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate.state import AcceleratorState
from gpu import draw_shards, with_training
from train import load_batches, trainer
from train import measure as times_ms

from pipeline.common.accelerator import start_accelerator
from pipeline.common.config import Config, RunId, load_config
from pipeline.common.machine import available_cores
from pipeline.common.recipe import load_recipe
from pipeline.training.setup import start_training

CLIPS = 144


@dataclass(frozen=True)
class Variant:
    """What is changed: settings of `recipe.training`, the optimiser's kernel, the number of threads."""

    settings: dict[str, Any] = field(default_factory=dict)
    fused_optimizer: bool = False
    threads: int = available_cores()


AS_IT_IS = "as it is"
VARIANTS = {
    AS_IT_IS: Variant(),
    "fused AdamW": Variant(fused_optimizer=True),
    "mixed_precision: bf16": Variant({"mixed_precision": "bf16"}),
    "channels_last: false": Variant({"channels_last": False}),
    "one thread": Variant(threads=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", metavar="recipe", nargs="+", help="recipes of configs/recipe")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all variants (3)")
    parser.add_argument("--steps", type=int, default=20, help="steps of a variant in a round (20)")
    arguments = parser.parse_args()
    results = {}
    for name in arguments.recipes:
        config = config_of(name)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the paths in a config are relative
            draw_shards(config, CLIPS)
            rounds = [measure_all(config, arguments.steps) for _ in range(arguments.rounds)]
        results[name] = {variant: summarize([each[variant] for each in rounds], rounds) for variant in VARIANTS}
        for variant, figures in results[name].items():
            print(f"{name}, {variant}: {', '.join(f'{key} {value}' for key, value in figures.items())}", flush=True)
    print(json.dumps({"cpu": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__, **results}))


def config_of(recipe: str) -> Config:
    """The settings of params.yaml with another recipe, trained on all clips of train."""
    values = load_config().model_dump() | {"recipe": load_recipe(recipe).model_dump()}
    values["recipe"]["training"] |= {"select_on": "none", "patience": 0}
    return Config.model_validate(values | {"fit_on": "train_and_dev", "folds": None})


def measure_all(config: Config, steps: int) -> dict[str, float]:
    """Median milliseconds of a step of each variant, one variant after the other."""
    return {name: measure(config, variant, steps) for name, variant in VARIANTS.items()}


def measure(config: Config, variant: Variant, steps: int) -> float:
    """Median milliseconds of a step of one variant, after some steps that warm up."""
    AcceleratorState._reset_state(reset_partial_state=True)  # it allows one precision per process
    changed = with_training(config, variant.settings)
    with contextlib.redirect_stdout(None):  # which weights were loaded
        training = start_training(changed, RunId(0), start_accelerator(changed), Path("run"), Path("checkpoints"))
    torch.set_num_threads(variant.threads)  # Accelerate has set it
    for group in training.state.optimizer.param_groups:
        group["fused"] = variant.fused_optimizer
    step = trainer(training, load_batches(training))
    return median(times_ms({AS_IT_IS: step}, steps)[AS_IT_IS])


def summarize(medians_ms: list[float], rounds: list[dict[str, float]]) -> dict[str, float]:
    """The lowest and highest median of a variant, and its ratio to the recipe as it is within each round."""
    ratios = [own / each[AS_IT_IS] for own, each in zip(medians_ms, rounds, strict=True)]
    return {"low_ms": round(min(medians_ms)), "high_ms": round(max(medians_ms)), "ratio": round(median(ratios), 2)}


if __name__ == "__main__":
    main()
