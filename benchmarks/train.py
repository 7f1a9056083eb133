"""What the trainer costs beside a bare PyTorch loop, and how long it waits for data.

`.venv/bin/python benchmarks/train.py`, after `dvc repro` has made the demo's shards; two minutes on two cores. Both
loops take the same steps of the same network on the same batches in memory, with the same augmentation, loss, clipping,
optimiser and schedule; they take turns, step by step. The wait is measured in a run of the demo with the real loader.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count, cycle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import LambdaLR

from pipeline.common.config import Config, load_config
from pipeline.loading.augmentation import Draws, augment
from pipeline.loading.loader import Batch, split_step, train_batches
from pipeline.models.model import GroupEmotionModel
from pipeline.models.runs import HISTORY_NAME
from pipeline.training.distributed import start_accelerator
from pipeline.training.loop import Run, optimization_step, plan_of_epoch, run_training, start_run, step_generator
from pipeline.training.optimization import learning_rate, parameter_groups

BATCHES = 8
WAITING_EPOCHS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the trainer with a bare loop; measure its wait for data.")
    parser.add_argument("--steps", type=int, default=150, help="of each loop (default: 150)")
    steps = parser.parse_args().steps
    config = load_config()
    with tempfile.TemporaryDirectory() as folder:
        run = start_run(config, start_accelerator(config), Path(folder, "checkpoints"))
        batches = in_memory(run)
        loops = {"trainer": trainer(run, batches), "bare loop": bare_loop(run, batches)}
        ms: dict[str, list[float]] = {name: [] for name in loops}
        for number in range(steps + BATCHES):
            for name, step in loops.items():
                began = time.perf_counter()
                step()
                if number >= BATCHES:  # the first ones warm up
                    ms[name].append(1000 * (time.perf_counter() - began))
        for name, values in ms.items():
            print(f"{name:10} {statistics.median(values):7.2f} ms a step of {config.recipe.training.batch_size} clips")
        ratio = statistics.median(ours / bare for ours, bare in zip(ms["trainer"], ms["bare loop"], strict=True))
        wait = wait_share(config, run, Path(folder))
    print(json.dumps({"step_vs_bare_loop": round(ratio, 4), "data_wait_share": round(wait, 4)}))


def in_memory(run: Run) -> list[Batch]:
    """The first batches of an epoch."""
    config = run.config
    parts = split_step(config.recipe.training.batch_size, 0, 1, 1)
    plan = plan_of_epoch(run, 0)[:BATCHES]
    return list(train_batches(run.data.training, plan, parts, config.recipe.features, 2))


def trainer(run: Run, batches: list[Batch]) -> Callable[[], object]:
    """The project's own step."""
    endless = cycle(batches)
    parts = split_step(run.config.recipe.training.batch_size, 0, 1, 1)
    run.trained.train()
    return lambda: optimization_step(run, endless, parts)


def bare_loop(run: Run, batches: list[Batch]) -> Callable[[], object]:
    """The same step as one would write it for one process and nothing else."""
    config, settings, device = run.config, run.config.recipe.training, run.accelerator.device
    model = GroupEmotionModel(config.recipe.model, config.recipe.features).to(device).train()
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), lr=settings.learning_rate)
    steps = settings.epochs * run.steps_per_epoch
    schedule = LambdaLR(optimizer, lambda step: learning_rate(step, steps, settings) / settings.learning_rate)
    endless, numbers = cycle(batches), count()
    (rows,) = split_step(settings.batch_size, 0, 1, 1)

    def step() -> None:
        draws = Draws(step_generator(config.seed, next(numbers)), settings.batch_size, rows, device)
        batch = augment(next(endless).to(device), settings.augmentation, config.recipe.features, draws)
        loss = F.cross_entropy(model(batch), batch.labels, label_smoothing=settings.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return step


def wait_share(config: Config, run: Run, folder: Path) -> float:
    """Share of the training time, scoring apart, that a run spends waiting for batches."""
    training = config.recipe.training.model_copy(update={"epochs": WAITING_EPOCHS})
    short = config.model_copy(update={"recipe": config.recipe.model_copy(update={"training": training})})
    run_training(short, run.accelerator, folder / "run", folder / "checkpoints")
    rows = (folder / "run" / HISTORY_NAME).read_text().splitlines()
    shares = [float(row.rsplit(",", 1)[1]) for row in rows[1:]]
    print(f"waiting for data, epoch by epoch: {', '.join(f'{share:.2%}' for share in shares)}")
    return statistics.mean(shares)


if __name__ == "__main__":
    main()
