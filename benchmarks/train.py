"""What the trainer costs compared with a bare PyTorch loop, and how long it waits for data.

Run `.venv/bin/python benchmarks/train.py` after `dvc repro` has made the demo's shards. It takes two minutes on two
cores. Both loops take the same steps of the same network on the same batches in memory, with the same augmentation,
loss, clipping, optimiser and schedule. They take turns, step by step. The wait is measured in a training on the demo
with the real loader.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from itertools import count, cycle
from pathlib import Path
from statistics import mean, median

import torch
from torch.optim.lr_scheduler import LambdaLR

from pipeline.common.accelerator import start_accelerator
from pipeline.common.config import RunId, load_config
from pipeline.loading.augmentation import augment
from pipeline.loading.batch import Batch
from pipeline.loading.draws import Draws
from pipeline.loading.loader import Loader
from pipeline.loading.plan import split_step
from pipeline.models.model import GroupEmotionModel
from pipeline.models.run_record import read_history
from pipeline.training.loop import optimization_step, step_generator, train_model
from pipeline.training.objective import Objective
from pipeline.training.optimization import build_optimizer, learning_rate
from pipeline.training.setup import Training, start_training

BATCHES = 8  # in memory; each loop warms up on all of them
WAITING_EPOCHS = 3
TRAINER, BARE_LOOP = "trainer", "bare loop"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=int, default=150, help="steps of each loop (default: 150)")
    steps = parser.parse_args().steps
    config = load_config()
    with tempfile.TemporaryDirectory() as name:
        run, accelerator = RunId(config.seeds[0]), start_accelerator(config)
        training = start_training(config, run, accelerator, Path(name, "run"), Path(name, "checkpoints"))
        batches = load_batches(training)
        times_ms = measure({TRAINER: trainer(training, batches), BARE_LOOP: bare_loop(training, batches)}, steps)
        for loop, values in times_ms.items():
            print(f"{loop:10} {median(values):7.2f} ms per step of {config.recipe.training.batch_size} clips")
        pairs = zip(times_ms[TRAINER], times_ms[BARE_LOOP], strict=True)
        ratio = median(trainer_ms / bare_ms for trainer_ms, bare_ms in pairs)
        share = data_wait_share(training)
    print(json.dumps({"step_vs_bare_loop": round(ratio, 4), "data_wait_share": round(share, 4)}))


def measure(loops: dict[str, Callable[[], object]], steps: int) -> dict[str, list[float]]:
    """Milliseconds of each step of each loop. The loops take turns; the first steps warm up and are not counted."""
    times_ms: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(BATCHES + steps):
        for name, take_step in loops.items():
            start = time.perf_counter()
            take_step()
            if number >= BATCHES:
                times_ms[name].append(1000 * (time.perf_counter() - start))
    return times_ms


def load_batches(training: Training) -> list[Batch]:
    """The first batches of an epoch."""
    parts = split_step(training.settings.batch_size, rank=0, world=1, micro_batches=1)
    plan = training.plan_of_epoch(0)[:BATCHES]
    loader = Loader(training.config.recipe.features, threads=2)
    frames = training.frames_of_steps(0, BATCHES)
    return list(loader.train_batches(training.clips.training, plan, frames, parts))


def trainer(training: Training, batches: list[Batch]) -> Callable[[], object]:
    """The step of this project's trainer."""
    endless = cycle(batches)
    parts = split_step(training.settings.batch_size, rank=0, world=1, micro_batches=1)
    training.wrapped.train()
    return lambda: optimization_step(training, endless, parts)


def bare_loop(training: Training, batches: list[Batch]) -> Callable[[], object]:
    """The same step, as one would write it for one process and nothing else."""
    config, settings, device = training.config, training.settings, training.accelerator.device
    model = GroupEmotionModel(config.recipe.model, config.recipe.features, config.dataset.classes).to(device).train()
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = Objective(model, settings, torch.ones(len(model.labels))).to(device)
    optimizer = build_optimizer(objective, settings)
    total_steps = training.total_steps
    schedule = LambdaLR(optimizer, lambda step: learning_rate(step, total_steps, settings) / settings.learning_rate)
    endless, step_numbers = cycle(batches), count()
    (rows,) = split_step(settings.batch_size, rank=0, world=1, micro_batches=1)

    def take_step() -> None:
        draws = Draws(step_generator(training.run.seed, next(step_numbers)), settings.batch_size, rows, device)
        classes = len(config.dataset.classes)
        batch = augment(next(endless).to(device), settings.augmentation, config.recipe.features, classes, draws)
        objective(batch).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return take_step


def data_wait_share(training: Training) -> float:
    """Mean share of the training time, without scoring, that a short training waits for batches."""
    config = load_config(changes={"recipe.training.epochs": WAITING_EPOCHS})
    train_model(config, training.run, training.accelerator, training.folder, training.checkpoints)
    shares = [epoch.data_wait_share for epoch in read_history(training.folder)]
    print(f"waiting for data, epoch by epoch: {', '.join(f'{share:.2%}' for share in shares)}")
    return mean(shares)


if __name__ == "__main__":
    main()
