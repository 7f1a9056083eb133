"""The training run: one readable loop on Accelerate.

All that is random in a step (order, augmentation, dropout) follows from (seed, step, process), so a run that is killed
and resumed goes on as if it had not been: there is no random state to save.
"""

import csv
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipeline.clips.manifest import SPLITS, Clip, read_manifest, sha256_of
from pipeline.common.config import Config
from pipeline.common.errors import Stopped, UserError
from pipeline.common.machine import alone_in
from pipeline.common.metrics import accuracy, log_loss
from pipeline.common.progress import Progress
from pipeline.common.provenance import environment, source_digest
from pipeline.loading.augmentation import Draws, augment
from pipeline.loading.loader import (
    Batch,
    ClipRef,
    hold_out_sources,
    locate,
    plan_epoch,
    shard_numbers,
    split_step,
    train_batches,
)
from pipeline.models.model import GroupEmotionModel
from pipeline.models.runs import HISTORY_NAME, LAST_MODEL_NAME, MODEL_NAME, RUN_NAME
from pipeline.models.scoring import score_clips
from pipeline.models.weights import Report, load_weights
from pipeline.shards.files import open_index
from pipeline.shards.format import INDEX_NAME, ShardIndex
from pipeline.training.checkpoint import (
    Checkpoint,
    Resume,
    differences,
    load_checkpoint,
    optimizer_tensors,
    refuse_another_run,
    remove_checkpoints,
    restore_optimizer,
    save_checkpoint,
    save_tensors,
)
from pipeline.training.distributed import TRACKER_LOGS, StopSignal, names_a_lost_process, share_batch_norm
from pipeline.training.optimization import build_optimizer, learning_rate, moving_average, set_learning_rate

# The measures stay empty for an epoch that was not scored.
HISTORY_COLUMNS = (
    *("epoch", "step", "train_loss", "selection_accuracy", "selection_log_loss"),
    *("learning_rate", "seconds", "data_wait_share"),
)
TRAIN, VAL = SPLITS
TRACKED_STEPS = 10  # a tracker hears of every tenth step: reading the loss waits for the GPU


@dataclass(frozen=True)
class Data:
    """The clips that are trained on, those that choose the epoch, if any, and the SHA-256 of what names them all."""

    training: list[ClipRef]
    selection: list[ClipRef]
    digests: dict[str, str]


@dataclass
class Run:
    """A training run, as far as it has come.

    `pretrained` says what of which file the backbones started from. `model` is the bare network, `trained` the same one
    as Accelerate wraps it, `average` its moving average, if any. `changes` are those that it was resumed with.
    `history` has a row for each finished epoch; `loss_sum`, `began_s` (on the monotonic clock) and `wait_s` (for data)
    are of the running one.
    """

    config: Config
    accelerator: Accelerator
    checkpoints: Path
    data: Data
    identity: dict[str, Any]
    pretrained: dict[str, Report]
    model: GroupEmotionModel
    trained: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    stop: StopSignal
    loss_sum: Tensor
    began_s: float = field(default_factory=time.monotonic)
    wait_s: float = 0.0
    step: int = 0
    changes: list[str] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def steps_per_epoch(self) -> int:
        """Full steps that the training clips make."""
        return len(self.data.training) // self.config.recipe.training.batch_size

    @property
    def scored(self) -> nn.Module:
        """What is scored, selected and published."""
        return self.average.module if self.average else self.model


def run_training(
    config: Config, accelerator: Accelerator, run_folder: Path, checkpoints: Path, resume: Resume = "exact"
) -> None:
    """Train as `config` says, from the shards to `run_folder`; goes on where one of `checkpoints` left the same run.

    Raises `Stopped` after SIGTERM, with a checkpoint saved.
    """
    lock = alone_in(checkpoints, "training") if accelerator.is_main_process else nullcontext()
    with lock, names_a_lost_process(config.execution.process_timeout_s):
        run = start_run(config, accelerator, checkpoints)
        with run.stop.caught():
            restore(run, resume)
            fit(run)
        if accelerator.is_main_process:
            write_run(run_folder, run)
            remove_checkpoints(checkpoints)
            checkpoints.rmdir()
        accelerator.wait_for_everyone()


def load_data(config: Config) -> Data:
    """The clips of the shards, split into those trained on and those that choose the epoch."""
    settings = config.recipe.training
    indexes = {split: open_split(config, split) for split in SPLITS}
    digests = {f"the shards of {split}": sha256_of(index.folder / INDEX_NAME) for split, (index, _) in indexes.items()}
    digests |= {f"the manifest of {split}": sha256_of(config.manifests / f"{split}.csv") for split in SPLITS}
    train = locate(*indexes[TRAIN])
    match settings.select_on:
        case "val":
            return Data(train, locate(*indexes[VAL]), digests)
        case "none":
            return Data(train, [], digests)
        case _:
            return Data(*hold_out_sources(train, settings.dev_fraction, config.seed), digests)


def open_split(config: Config, split: str) -> tuple[ShardIndex, list[Clip]]:
    """A split's shards and its manifest."""
    return open_index(config, split), read_manifest(config.manifests, split)


def run_identity(config: Config, data: Data, pretrained: dict[str, Report], accelerator: Accelerator) -> dict[str, Any]:
    """All that the weights follow from, flat; a checkpoint of anything else is not continued."""
    return {
        **flatten({"recipe": config.recipe.model_dump(), "seed": config.seed}),
        **data.digests,
        **{f"the pretrained weights of {name}": report.sha256 for name, report in pretrained.items()},
        "number of processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "code": source_digest(),
        **{library: version(library) for library in ("torch", "torchvision", "timm", "numpy", "simplejpeg")},
        # Sums are taken in another order by another number of threads.
        "threads": torch.get_num_threads() if accelerator.device.type == "cpu" else None,
    }


def fingerprint(identity: dict[str, Any]) -> str:
    """SHA-256 of a run's identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def start_run(config: Config, accelerator: Accelerator, checkpoints: Path) -> Run:
    """A run before its first step; refuses processes that differ in settings, data or code."""
    settings = config.recipe.training
    data = load_data(config)
    torch.manual_seed(config.seed)
    model = GroupEmotionModel(config.recipe.model, config.recipe.features)
    pretrained = load_pretrained(model, config, accelerator)
    identity = run_identity(config, data, pretrained, accelerator)
    for rank, other in enumerate(gather_object([identity])):
        if changes := differences(identity, other):
            raise UserError(f"process {rank} runs something else than this one: {'; '.join(changes)}")
    model.to(accelerator.device)
    if settings.channels_last:
        to_channels_last(model)
    share_batch_norm(model, accelerator.device, accelerator.num_processes)
    average = moving_average(model, settings.ema_decay)
    optimizer = build_optimizer(model, settings)
    if settings.compile:
        model.compile()
    start_trackers(config, identity, accelerator)
    return Run(
        config=config,
        accelerator=accelerator,
        checkpoints=checkpoints,
        data=data,
        identity=identity,
        pretrained=pretrained,
        model=model,
        trained=accelerator.prepare_model(model),
        average=average,
        optimizer=accelerator.prepare_optimizer(optimizer),
        stop=StopSignal(config.execution.process_timeout_s),
        loss_sum=torch.zeros((), device=accelerator.device),
    )


def load_pretrained(model: GroupEmotionModel, config: Config, accelerator: Accelerator) -> dict[str, Report]:
    """Put the weights that the recipe asks for into the backbones; a machine's first process fetches the missing."""
    reports: dict[str, Report] = {}
    with accelerator.local_main_process_first():
        for name, network in model.backbones().items():
            settings = getattr(config.recipe.model, name)
            if report := load_weights(network, settings, Path(config.execution.pretrained)):
                accelerator.print(f"{name}: {report}")
                reports[name] = report
    return reports


def to_channels_last(model: nn.Module) -> None:
    """Lay the kernels of convolutions out with their channels last, in pictures and in clips."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])


def start_trackers(config: Config, identity: dict[str, Any], accelerator: Accelerator) -> None:
    """Tell the trackers what runs; each run has a folder of its own, which it finds again when it is resumed."""
    settings = {key: str(value) for key, value in identity.items()}
    name = fingerprint(identity)[:12]
    folder = TRACKER_LOGS / name
    accelerator.project_configuration.logging_dir = str(folder)
    resumed = {
        "dvclive": {"dir": str(folder / "dvclive"), "save_dvc_exp": False, "resume": True},
        "wandb": {"id": name, "resume": "allow"},
    }
    accelerator.init_trackers(config.dataset.name, settings, resumed)


def restore(run: Run, resume: Resume) -> None:
    """Put the run where its last checkpoint left it, if there is one.

    Raises `UserError` for a checkpoint of another run, unless `resume` is `changed` (go on) or `afresh` (remove it).
    """
    folder, accelerator = run.checkpoints, run.accelerator
    if resume == "afresh" and accelerator.is_main_process:
        remove_checkpoints(folder)
    accelerator.wait_for_everyone()
    last = load_checkpoint(folder)
    if len(found := set(gather_object([last.step if last else 0]))) > 1:
        raise UserError(
            f"the processes found checkpoints of different steps, {sorted(found)}: put {folder} on a disk that all "
            "machines share, copy the first machine's to the others, or remove it on all of them"
        )
    if not folder.exists():
        print(f"warning: {folder} of the first machine is not seen here; to resume, it must be", file=sys.stderr)
    if last is None:
        return
    if resume == "exact":
        refuse_another_run(last, run.identity, folder)
    if last.steps_per_epoch != run.steps_per_epoch:
        raise UserError(
            f"{folder} is of a run with {last.steps_per_epoch} steps an epoch, there are {run.steps_per_epoch} now: "
            "other clips or another batch size cannot be continued with; add --resume afresh"
        )
    try:
        run.model.load_state_dict(last.model)
        if run.average and last.average:
            run.average.load_state_dict(last.average)
    except RuntimeError as error:
        raise UserError(f"{folder} is of another network ({str(error).splitlines()[0]}); remove it") from None
    restore_optimizer(run.optimizer, run.model, last.optimizer)
    if accelerator.scaler is not None and last.scaler:
        accelerator.scaler.load_state_dict(last.scaler)
    run.step, run.history, run.best = last.step, last.history, last.best
    run.began_s, run.wait_s = time.monotonic() - last.elapsed_s, last.wait_s
    sums, world = last.loss_sums, accelerator.num_processes
    own = sums[accelerator.process_index] if len(sums) == world else sum(sums) / len(sums)
    run.loss_sum.fill_(own)
    run.changes = [*last.changes, *differences(last.identity, run.identity)]
    accelerator.print(f"going on after step {run.step}")


def fit(run: Run) -> None:
    """Train to the last epoch, or until there was none better for `patience` of them."""
    settings, accelerator = run.config.recipe.training, run.accelerator
    parts = split_step(
        settings.batch_size, accelerator.process_index, accelerator.num_processes, settings.micro_batches
    )
    plan_of_epoch(run, 0)  # refuses a batch larger than the training clips
    total, shown = settings.epochs * run.steps_per_epoch, accelerator.is_main_process
    with Progress("train", total, "steps", run.step, shown) as progress:
        while run.step < total and not ran_out_of_patience(run.history, settings.patience):
            train_epoch(run, parts, progress)
            finish_epoch(run)
            save(run)
            if run.step < total and run.stop.received():
                raise Stopped(f"training is saved after epoch {len(run.history)}")


def train_epoch(run: Run, parts: Sequence[NDArray[Any]], progress: Progress) -> None:
    """The steps that are left of the running epoch, with a checkpoint now and then."""
    config, accelerator = run.config, run.accelerator
    epoch, done = divmod(run.step, run.steps_per_epoch)
    plan = plan_of_epoch(run, epoch)[done:]
    pinned = accelerator.device.type == "cuda"
    batches = train_batches(
        run.data.training, plan, parts, config.recipe.features, config.execution.decode_threads, pinned
    )
    run.trained.train()
    for left in reversed(range(len(plan))):
        loss = optimization_step(run, batches, parts)
        progress.advance(note=lambda: f"epoch {epoch + 1}, loss {loss.item():.3f}")  # noqa: B023 - read at once
        if accelerator.trackers and run.step % TRACKED_STEPS == 0:
            accelerator.log({"loss": loss.item(), "learning_rate": run.optimizer.param_groups[0]["lr"]}, run.step)
        if left and run.stop.received():  # after the last step, the epoch is finished first
            save(run)
            raise Stopped(f"training is saved after step {run.step}")
        if left and run.step % config.execution.checkpoint_steps == 0:
            save(run)


def plan_of_epoch(run: Run, epoch: int) -> NDArray[np.int64]:
    """The clips of each step of an epoch, as positions in `data.training`: (steps, batch_size)."""
    settings = run.config.recipe.training
    shards = shard_numbers(run.data.training)
    return plan_epoch(shards, settings.batch_size, settings.shuffle_shards, run.config.seed, epoch)


def optimization_step(run: Run, batches: Iterator[Batch], parts: Sequence[NDArray[Any]]) -> Tensor:
    """One step of the optimiser on the micro-batches of this process; returns their mean loss."""
    config, settings, accelerator = run.config, run.config.recipe.training, run.accelerator
    set_learning_rate(run.optimizer, learning_rate(run.step, settings.epochs * run.steps_per_epoch, settings))
    seed_dropout(config.seed, run.step, accelerator.process_index)
    mean = torch.zeros((), device=accelerator.device)
    for number, part in enumerate(parts):
        asked = time.monotonic()
        batch = next(batches)
        run.wait_s += time.monotonic() - asked
        draws = Draws(step_generator(config.seed, run.step), settings.batch_size, part, accelerator.device)
        batch = augment(batch.to(accelerator.device), settings.augmentation, config.recipe.features, draws)
        is_last = number == len(parts) - 1
        with nullcontext() if is_last else accelerator.no_sync(run.trained):
            loss = F.cross_entropy(run.trained(batch), batch.labels, label_smoothing=settings.label_smoothing)
            accelerator.backward(loss / len(parts))
        mean += loss.detach() / len(parts)
    norm = accelerator.clip_grad_norm_(run.trained.parameters(), settings.clip_norm)
    if accelerator.scaler is None:  # which steps over a gradient that is not finite; without one, it ends the run
        mean += 0 * norm
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.average:
        run.average.update_parameters(run.model)
    run.loss_sum += mean
    run.step += 1
    return mean


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Make dropout in a step follow from (seed, step, rank)."""
    torch.manual_seed(_number(f"dropout {seed} {step} {rank}"))


def step_generator(seed: int, step: int) -> torch.Generator:
    """For a step's augmentation, which is that of the whole step on any process."""
    return torch.Generator().manual_seed(_number(f"augmentation {seed} {step}"))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


def finish_epoch(run: Run) -> None:
    """Score the selecting clips, if any, and add the epoch to the history; keep the weights if it is the best yet."""
    config, settings, accelerator = run.config, run.config.recipe.training, run.accelerator
    train_s = time.monotonic() - run.began_s
    measured = {}
    if run.data.selection:
        probabilities = score_clips(run.scored, run.data.selection, config, accelerator)
        measured = selection_measures(run.data.selection, probabilities)
    row = {
        "epoch": len(run.history) + 1,
        "step": run.step,
        "train_loss": mean_loss(run) / run.steps_per_epoch,
        **measured,
        "learning_rate": learning_rate(run.step - 1, settings.epochs * run.steps_per_epoch, settings),
        "seconds": round(time.monotonic() - run.began_s, 2),
        "data_wait_share": round(run.wait_s / train_s, 4),
    }
    run.history.append(row)
    run.loss_sum.zero_()
    run.began_s, run.wait_s = time.monotonic(), 0.0
    accelerator.log(row, run.step)
    if best_row(run.history) is row:
        run.best = weights_of(run.scored)


def mean_loss(run: Run) -> float:
    """The mean over the processes of the running epoch's sum; raises `UserError` for a run that diverged."""
    mean: Tensor = run.accelerator.reduce(run.loss_sum, "mean")
    if not math.isfinite(mean.item()):
        raise UserError(f"the loss is {mean.item()} at step {run.step}: lower training.learning_rate")
    return mean.item()


def save(run: Run) -> None:
    """Write a checkpoint; all processes take part."""
    accelerator = run.accelerator
    mean_loss(run)  # what has diverged is not saved
    loss_sums = accelerator.gather(run.loss_sum.reshape(1)).tolist()
    if accelerator.is_main_process:
        checkpoint = Checkpoint(
            identity=run.identity,
            changes=run.changes,
            step=run.step,
            steps_per_epoch=run.steps_per_epoch,
            history=run.history,
            loss_sums=loss_sums,
            elapsed_s=time.monotonic() - run.began_s,
            wait_s=run.wait_s,
            scaler=accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
            model=weights_of(run.model),
            average=weights_of(run.average) if run.average else {},
            best=run.best,
            optimizer=optimizer_tensors(run.optimizer, run.model),
        )
        save_checkpoint(checkpoint, run.checkpoints)
    accelerator.wait_for_everyone()  # who leaves now leaves a whole checkpoint behind


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's weights, on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }


def selection_measures(clips: Sequence[ClipRef], probabilities: NDArray[Any]) -> dict[str, float]:
    """What an epoch is chosen by: accuracy, and log loss between equals."""
    labels = torch.tensor([clip.label for clip in clips]).numpy()
    return {
        "selection_accuracy": accuracy(labels, probabilities.argmax(axis=1)),
        "selection_log_loss": log_loss(labels, probabilities),
    }


def best_row(history: list[dict[str, float]]) -> dict[str, float]:
    """The chosen epoch: highest accuracy on the selecting split, lowest log loss among those; the last without one."""
    if "selection_accuracy" not in history[-1]:
        return history[-1]
    scored = [row for row in history if "selection_accuracy" in row]
    return max(scored, key=lambda row: (row["selection_accuracy"], -row["selection_log_loss"]))


def ran_out_of_patience(history: list[dict[str, float]], patience: int) -> bool:
    """Whether the last `patience` epochs were all worse than one before them."""
    return bool(patience and history) and len(history) - best_row(history)["epoch"] >= patience


def device_name(device: torch.device) -> str:
    """The device as a reader of a result would name it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def write_run(folder: Path, run: Run) -> None:
    """Write a finished run: the chosen and the last weights, a history row an epoch, and what they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(run.best, folder / MODEL_NAME)
    save_tensors(weights_of(run.scored), folder / LAST_MODEL_NAME)
    with (folder / HISTORY_NAME).open("w", newline="") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(run.history)
    record = {
        "config": run.config.model_dump(),
        "identity": run.identity,
        "fingerprint": fingerprint(run.identity),
        "resumed_with_changes": run.changes,
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "pretrained": {name: vars(report) for name, report in run.pretrained.items()},
        "interfaces": {name: vars(network.interface) for name, network in run.model.backbones().items()},
        "clips": {"training": len(run.data.training), "selection": len(run.data.selection)},
        "selected_on": run.config.recipe.training.select_on,
        "selected_epoch": best_row(run.history)["epoch"],
        "selection_accuracy": best_row(run.history).get("selection_accuracy"),
        "seconds": round(sum(row["seconds"] for row in run.history), 1),
        "processes": run.accelerator.num_processes,
        "device": device_name(run.accelerator.device),
        **environment(),
    }
    (folder / RUN_NAME).write_text(json.dumps(record, indent=2) + "\n")
