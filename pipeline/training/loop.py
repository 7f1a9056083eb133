"""The training loop, on Accelerate.

Everything random in a step (order, frames, augmentation, dropout) follows from (seed, step, process). So a training
that is killed and resumed continues as if it had never been interrupted, and there is no random state to save.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from pipeline.common.accelerator import names_a_lost_process, names_full_memory
from pipeline.common.config import Config, RunId
from pipeline.common.errors import Stopped, UserError
from pipeline.common.machine import exclusive_use
from pipeline.common.progress import Progress
from pipeline.loading.augmentation import augment
from pipeline.loading.batch import Batch
from pipeline.loading.draws import Draws
from pipeline.loading.loader import Loader
from pipeline.loading.plan import split_step
from pipeline.models.run_record import Epoch
from pipeline.models.scoring import Scorer
from pipeline.training.checkpoint import Checkpoint, CheckpointRecord, Resume, remove_own_checkpoints, save_checkpoint
from pipeline.training.epoch_log import record_epoch, start_log
from pipeline.training.epoch_sums import loss_and_steps, stream_rows, sums_of_step
from pipeline.training.finish import write_finished
from pipeline.training.finished_runs import clear_folder, keep_run, reuse_run
from pipeline.training.history import best_epoch, ran_out_of_patience, selection_measures
from pipeline.training.identity import training_fingerprint
from pipeline.training.objective import MEASURES, StepLoss
from pipeline.training.optimization import clip_gradients, learning_rate, set_learning_rate
from pipeline.training.setup import Training, finishing_trackers, resume_training, start_trackers, start_training
from pipeline.training.state import weights_of

# A training ends after so many steps in a row without a finite gradient, or after as many as an epoch has. fp16 begins
# with some, until its scale fits.
MOST_SKIPPED = 20
TRACKED_STEPS = 10  # trackers get the loss of every tenth step: reading it waits for the GPU


def train_model(
    config: Config,
    run: RunId,
    accelerator: Accelerator,
    folder: Path,
    checkpoints: Path,
    resume: Resume = "exact",
    store: Path | None = None,
) -> None:
    """Train one run as `config` says and write it to `folder`, unless the same training was finished before.

    Finished runs are looked for in `folder` and in `store`, and kept in `store`. A training that `checkpoints` holds
    unfinished is continued. Raises `Stopped` after SIGTERM or Ctrl-C, with a checkpoint saved.
    """
    lock = exclusive_use(checkpoints, "training") if accelerator.is_main_process else nullcontext()
    with lock, names_a_lost_process(config.execution.process_timeout_s), names_full_memory():
        training = start_training(config, run, accelerator, folder, checkpoints)
        if not is_finished(training, resume, store):
            with training.pauses.caught(), finishing_trackers(accelerator):
                resume_training(training, resume)
                start_trackers(training)
                train_all_epochs(training)
            if accelerator.is_main_process:
                write_finished(training)
                keep_run(folder, store)
        if accelerator.is_main_process:
            remove_own_checkpoints(training.identity, checkpoints)
        accelerator.wait_for_everyone()


def is_finished(training: Training, resume: Resume, store: Path | None) -> bool:
    """Whether the folder of the run holds this very training, finished; a run that was kept is put there first.

    With `afresh`, a finished run is removed from the folder, and the answer is no.
    """
    accelerator, reused = training.accelerator, False
    if resume == "afresh":
        if accelerator.is_main_process:
            clear_folder(training.folder, store)
        return False
    if accelerator.is_main_process:
        reused = reuse_run(training_fingerprint(training.identity), training.folder, store)
    if not any(gather_object([reused])):  # the other machines of a cluster do not see the folder
        return False
    accelerator.print(f"{training.folder}: this training was finished before, and is kept")
    return True


def train_all_epochs(training: Training) -> None:
    """Train to the last epoch, or until `patience` epochs brought nothing better."""
    state, settings, accelerator = training.state, training.settings, training.accelerator
    together = math.lcm(state.model.clips_together, 2 if settings.augmentation.mixup_alpha else 1)
    rank, world = accelerator.process_index, accelerator.num_processes
    parts = split_step(settings.batch_size, rank, world, settings.micro_batches, together)
    if accelerator.is_main_process:
        start_log(training)
    with Progress(
        f"train {training.run}", training.total_steps, "steps", state.step, accelerator.is_main_process
    ) as progress:
        while state.step < training.total_steps and not ran_out_of_patience(state.history, settings.patience):
            train_epoch(training, parts, progress)
            finish_epoch(training)
            save(training)
            if accelerator.is_main_process:
                record_epoch(training, progress)
            if state.step < training.total_steps and training.pauses.due()[0]:
                raise Stopped(f"{training.run} is saved after epoch {len(state.history)}")


def train_epoch(training: Training, parts: Sequence[NDArray[np.int64]], progress: Progress) -> None:
    """Take the remaining steps of the running epoch, and save a checkpoint every so many minutes."""
    config, state, accelerator = training.config, training.state, training.accelerator
    epoch, done = divmod(state.step, training.steps_per_epoch)
    plan = training.plan_of_epoch(epoch)[done:]
    frames = training.frames_of_steps(state.step, len(plan))
    loader = Loader.for_config(config, accelerator.device, state.model.any_length)
    batches = loader.train_batches(training.clips.training, plan, frames, parts)
    state.model.frozen = config.recipe.model.freeze_backbones or epoch < training.settings.freeze_epochs
    training.wrapped.train()
    for remaining in reversed(range(len(plan))):
        loss = optimization_step(training, batches, parts)
        progress.advance(note=lambda: f"epoch {epoch + 1}, loss {loss.item():.3f}")  # noqa: B023 - called at once
        if accelerator.trackers and state.step % TRACKED_STEPS == 0:
            rate = learning_rate(state.step - 1, training.total_steps, training.settings)
            accelerator.log({"loss": loss.item(), "learning_rate": rate}, state.step)
        if remaining:  # after the last step, the epoch is finished first
            stop, save_now = training.pauses.due()
            if save_now:
                save(training)
            if stop:
                raise Stopped(f"{training.run} is saved after step {state.step}")


def optimization_step(training: Training, batches: Iterator[Batch], parts: Sequence[NDArray[np.int64]]) -> Tensor:
    """Take one step of the optimiser on the micro-batches of this process; returns the mean of their `StepLoss.fused`.

    A step whose gradient is not finite changes nothing.
    """
    config, settings, state, accelerator = training.config, training.settings, training.state, training.accelerator
    set_learning_rate(state.optimizer, learning_rate(state.step, training.total_steps, settings))
    seed_dropout(training.run.seed, state.step, accelerator.process_index)
    fused = torch.zeros((), device=accelerator.device)
    streams = torch.zeros(len(state.objective.heads), MEASURES, device=accelerator.device)
    augmentation = config.recipe.augmentation_after(state.step / training.total_steps)
    training.statistics.begin()
    for number, part in enumerate(parts):
        batch = next_batch(training, batches)
        draws = Draws(step_generator(training.run.seed, state.step), settings.batch_size, part, accelerator.device)
        batch = augment(batch, augmentation, config.recipe.features, len(config.dataset.classes), draws)
        is_last = number == len(parts) - 1
        with nullcontext() if is_last else accelerator.no_sync(training.wrapped):
            loss: StepLoss = training.wrapped(batch)
            training.statistics.collect()
            accelerator.backward(loss.total / len(parts))
        fused += loss.fused / len(parts)
        streams += loss.streams
    norm, norms = clip_gradients(state.objective, settings.clip_norm, accelerator)
    if norm.isfinite():
        state.optimizer.step()
        training.statistics.end(len(parts), accelerator)
        if state.average:
            state.average.update_parameters(state.model)
        step_sums = sums_of_step(fused, streams, norms, accelerator.num_processes)
        state.sums[accelerator.process_index] += step_sums
        state.skipped_in_row = 0
    else:
        skip_step(training)
    state.optimizer.zero_grad()
    state.step += 1
    training.tick()
    return fused


def skip_step(training: Training) -> None:
    """Leave everything as it was before the step; raises `UserError` after too many such steps in a row."""
    state = training.state
    if training.accelerator.scaler:
        state.optimizer.step()  # the scaler takes no step, and scales the loss less from now on
    training.statistics.undo()
    state.skipped_in_row += 1
    if state.skipped_in_row >= min(MOST_SKIPPED, training.steps_per_epoch):
        raise UserError(
            f"the gradient was not finite in {state.skipped_in_row} steps in a row, up to step {state.step + 1}: lower "
            "recipe.training.learning_rate, or look for clips with damaged sound"
        )


def next_batch(training: Training, batches: Iterator[Batch]) -> Batch:
    """The next batch on the device; the time until it is loaded counts as waiting."""
    asked_s = time.monotonic()
    batch = next(batches)
    training.state.wait_s += time.monotonic() - asked_s
    return batch.to(training.accelerator.device)


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Make the dropout of a step follow from (seed, step, rank)."""
    torch.manual_seed(_hashed(f"dropout {seed} {step} {rank}"))


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator for the augmentation of a step; it is the same in every process."""
    return torch.Generator().manual_seed(_hashed(f"augmentation {seed} {step}"))


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


def finish_epoch(training: Training) -> None:
    """Score the selection clips, if any, add the epoch to the history, and keep the weights if it is the best yet."""
    state, accelerator, selection = training.state, training.accelerator, training.clips.selection
    training.tick()
    train_s = state.elapsed_s
    accuracy, log_loss = None, None
    if selection:
        probabilities = Scorer(training.scored_model, accelerator).score(selection, training.config)
        accuracy, log_loss = selection_measures(selection, probabilities)
    training.tick()
    sums = accelerator.reduce(state.sums, "sum").sum(dim=0).cpu()
    train_loss, steps = loss_and_steps(sums)
    epoch = Epoch(
        epoch=len(state.history) + 1,
        step=state.step,
        train_loss=train_loss,
        selection_accuracy=accuracy,
        selection_log_loss=log_loss,
        learning_rate=learning_rate(state.step - 1, training.total_steps, training.settings),
        seconds=round(state.elapsed_s, 2),
        clips_per_s=round(training.steps_per_epoch * training.settings.batch_size / train_s, 1),
        data_wait_share=round(state.wait_s / train_s, 4),
        skipped_steps=training.steps_per_epoch - steps,
    )
    state.history.append(epoch)
    state.streams += stream_rows(epoch.epoch, state.model.backbones(), sums)
    state.sums.zero_()
    state.elapsed_s = state.wait_s = 0.0
    accelerator.log({key: value for key, value in vars(epoch).items() if value is not None}, state.step)
    if best_epoch(state.history) is epoch:
        state.best = weights_of(training.scored_model)


def save(training: Training) -> None:
    """Write a checkpoint; every process must call it."""
    accelerator, state = training.accelerator, training.state
    sums = accelerator.reduce(state.sums, "sum")
    if accelerator.is_main_process:
        record = CheckpointRecord(training.identity, training.steps_per_epoch, state.position)
        tensors = dataclasses.replace(state, sums=sums).tensors()
        save_checkpoint(Checkpoint(record, tensors), training.checkpoints)
    training.pauses.saved()
    accelerator.wait_for_everyone()  # so that a process that leaves now leaves a whole checkpoint behind
