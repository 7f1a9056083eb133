"""The training run: one readable loop on Accelerate.

All that is random in a step (order, augmentation, dropout) follows from (seed, step), so a run that is stopped and
resumed goes on as if it had not been: there is no random state to save.
"""

import csv
import hashlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.augmentation import augment
from pipeline.checkpoint import Checkpoint, load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from pipeline.config import Config, Training
from pipeline.errors import UserError
from pipeline.inference import score_clips
from pipeline.loader import ClipRef, hold_out_sources, locate, plan_epoch, train_batches
from pipeline.manifest import SPLITS, Clip, read_manifest, sha256_of
from pipeline.metrics import accuracy, log_loss
from pipeline.model import GroupEmotionModel
from pipeline.progress import Progress
from pipeline.provenance import environment, source_digest
from pipeline.shards import INDEX_NAME, ShardIndex, read_index

MODEL_NAME, HISTORY_NAME, RUN_NAME = "model.safetensors", "history.csv", "run.json"
TRAIN, VAL = SPLITS


@dataclass(frozen=True)
class Data:
    """The clips that are trained on, and those that choose the epoch."""

    training: list[ClipRef]
    selection: list[ClipRef]


def run_training(config: Config, accelerator: Accelerator, run_folder: Path, checkpoints: Path) -> None:
    """Train as `config` says, from the shards to `run_folder`; continues what `checkpoints` has of the same run."""
    data = load_data(config)
    fingerprint = run_fingerprint(config, accelerator.num_processes)
    folder = checkpoints / fingerprint[:16]
    torch.manual_seed(config.seed)
    model = GroupEmotionModel(config.recipe.model, config.recipe.features)
    final = fit(model, data, config, accelerator, folder)
    if accelerator.is_main_process:
        run = {
            "config": config.model_dump(),
            "fingerprint": fingerprint,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "clips": {"training": len(data.training), "selection": len(data.selection)},
            "selected_on": config.recipe.training.select_on,
            "selected_epoch": best_row(final.history)["epoch"],
            "processes": accelerator.num_processes,
            "device": device_name(accelerator.device),
            "seconds": round(sum(row["seconds"] for row in final.history), 1),
            **environment(),
        }
        write_run(run_folder, final, run)
        shutil.rmtree(folder)
    accelerator.wait_for_everyone()


def load_data(config: Config) -> Data:
    """The clips of the shards, split into those trained on and those that choose the epoch."""
    settings = config.recipe.training
    train = locate(*open_split(config, TRAIN))
    if settings.select_on == "val":
        return Data(train, locate(*open_split(config, VAL)))
    return Data(*hold_out_sources(train, settings.dev_fraction, config.seed))


def open_split(config: Config, split: str) -> tuple[ShardIndex, list[Clip]]:
    """A split's shards and its manifest."""
    return read_index(config.shards / split, config.recipe.features), read_manifest(config.manifests, split)


def run_fingerprint(config: Config, processes: int) -> str:
    """SHA-256 of all that the weights follow from; a checkpoint of anything else is never continued."""
    files = [config.shards / split / INDEX_NAME for split in SPLITS] + [config.manifests / f"{s}.csv" for s in SPLITS]
    parts = {
        "recipe": config.recipe.model_dump(),
        "seed": config.seed,
        "processes": processes,
        "data": [sha256_of(file) for file in files],
        "code": source_digest(),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fit(model: nn.Module, data: Data, config: Config, accelerator: Accelerator, folder: Path) -> Checkpoint:
    """Train for the configured epochs, with a checkpoint in `folder` after each; returns the last one."""
    settings, features = config.recipe.training, config.recipe.features
    if settings.batch_size % (world := accelerator.num_processes):
        raise UserError(f"training.batch_size is {settings.batch_size}, expected a multiple of the {world} processes")
    optimizer = torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=settings.learning_rate)
    last = load_checkpoint(folder)
    if last:
        accelerator.print(f"continuing after epoch {last.epochs} of {settings.epochs}")
        model.load_state_dict(last.model)
        restore_optimizer(optimizer, last.optimizer)
    if len(found := set(gather_object([last.epochs if last else 0]))) > 1:
        raise UserError(
            f"the processes found checkpoints of different epochs, {sorted(found)}: put {folder.parent} on a disk that "
            "all machines share, or remove it on all of them"
        )
    model, optimizer = accelerator.prepare(model, optimizer)
    steps_per_epoch = len(data.training) // settings.batch_size
    done = last.epochs * steps_per_epoch if last else 0
    shown = accelerator.is_main_process
    with Progress("train", settings.epochs * steps_per_epoch, "steps", done, shown) as progress:
        for epoch in range(last.epochs if last else 0, settings.epochs):
            started = time.monotonic()
            loss = train_epoch(model, optimizer, data.training, config, epoch, accelerator, progress)
            probabilities = score_clips(model, data.selection, settings.batch_size, features, accelerator)
            row = {
                "epoch": epoch + 1,
                "train_loss": loss,
                **selection_measures(data.selection, probabilities),
                "seconds": round(time.monotonic() - started, 1),
            }
            last = _checkpoint(last, row, accelerator.unwrap_model(model), optimizer)
            if accelerator.is_main_process:
                save_checkpoint(last, folder)
    assert last is not None  # there is at least one epoch
    return last


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    clips: Sequence[ClipRef],
    config: Config,
    epoch: int,
    accelerator: Accelerator,
    progress: Progress,
) -> float:
    """One pass over the clips; returns the mean loss over all processes."""
    settings, features = config.recipe.training, config.recipe.features
    plan = plan_epoch(len(clips), settings.batch_size, config.seed, epoch)
    rank, world = accelerator.process_index, accelerator.num_processes
    total = torch.zeros((), device=accelerator.device)
    model.train()
    for number, batch in enumerate(train_batches(clips, plan, features, rank, world)):
        step = epoch * len(plan) + number
        generator = seed_step(config.seed, step, rank)
        set_learning_rate(optimizer, learning_rate(step, settings.epochs * len(plan), settings))
        batch = augment(batch.to(accelerator.device), settings.augmentation, features, generator)
        loss = F.cross_entropy(model(batch), batch.labels, label_smoothing=settings.label_smoothing)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.detach()
        progress.advance(note=f"epoch {epoch + 1}, loss {total.item() / (number + 1):.3f}")
    mean: Tensor = accelerator.reduce(total, "mean")
    if not math.isfinite(mean.item()):
        raise UserError(f"the loss is {mean.item()} in epoch {epoch + 1}: lower training.learning_rate")
    return mean.item() / len(plan)


def seed_step(seed: int, step: int, rank: int) -> torch.Generator:
    """Make dropout and augmentation of a step follow from (seed, step, rank); returns the augmentation's generator."""
    digest = hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.Generator().manual_seed(int.from_bytes(digest[8:16], "little", signed=True))


def learning_rate(step: int, steps: int, settings: Training) -> float:
    """Linear warm-up, then a cosine to 0 at the last step."""
    warmup = max(1, round(settings.warmup * steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup + 1) / max(1, steps - warmup)))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = value


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights of matrices and kernels decay; biases, norms and single tokens do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def selection_measures(clips: Sequence[ClipRef], probabilities: Any) -> dict[str, float]:
    """What an epoch is chosen by: accuracy, and log loss between equals."""
    labels = torch.tensor([clip.label for clip in clips]).numpy()
    return {
        "selection_accuracy": accuracy(labels, probabilities.argmax(axis=1)),
        "selection_log_loss": log_loss(labels, probabilities),
    }


def best_row(history: list[dict[str, float]]) -> dict[str, float]:
    """The chosen epoch: highest accuracy on the selecting split, lowest log loss among those."""
    return max(history, key=lambda row: (row["selection_accuracy"], -row["selection_log_loss"]))


def device_name(device: torch.device) -> str:
    """The device as a reader of a result would name it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def write_run(folder: Path, final: Checkpoint, run: dict[str, Any]) -> None:
    """Write a finished run: the chosen weights, a history row an epoch, and what they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(final.best_model, folder / MODEL_NAME)
    with (folder / HISTORY_NAME).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(final.history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(final.history)
    (folder / RUN_NAME).write_text(json.dumps(run, indent=2) + "\n")


def _checkpoint(
    last: Checkpoint | None, row: dict[str, float], model: nn.Module, optimizer: torch.optim.Optimizer
) -> Checkpoint:
    history = [*(last.history if last else []), row]
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    is_best = best_row(history) is row
    return Checkpoint(
        epochs=len(history),
        history=history,
        model=weights,
        best_model=weights if is_best or last is None else last.best_model,
        optimizer=optimizer_tensors(optimizer),
    )
