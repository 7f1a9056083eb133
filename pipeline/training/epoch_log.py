"""What a training shows while it learns: after each epoch a line, and tables and a log in its folder."""

from datetime import UTC, datetime

from pipeline.common.progress import Progress
from pipeline.models.run_record import LOG_NAME
from pipeline.models.runs import write_histories
from pipeline.training.history import best_epoch, dead_streams
from pipeline.training.setup import Training


def start_log(training: Training) -> None:
    """Begin the histories and `train.log`, or continue them where a resumed training does."""
    folder, state = training.folder, training.state
    write_histories(folder, state.history, state.streams)
    if state.step == 0:
        (folder / LOG_NAME).unlink(missing_ok=True)
    clips, split = training.clips, training.settings.select_on
    chosen = "the last epoch is taken" if split == "none" else f"epoch chosen on {len(clips.selection)} of {split}"
    _append(
        training,
        f"{training.run}, from step {state.step} of {training.total_steps}: "
        f"fitted on {len(clips.training)} clips, {chosen}",
    )


def record_epoch(training: Training, progress: Progress) -> None:
    """Write the histories with the epoch that was finished, and print and log one line about it."""
    write_histories(training.folder, training.state.history, training.state.streams)
    line = describe_epoch(training)
    progress.say(line)
    _append(training, line)


def describe_epoch(training: Training) -> str:
    """The last epoch: losses, accuracy, learning rate, speed, the best epoch so far, dead networks, time left."""
    history, streams, split = training.state.history, training.state.streams, training.settings.select_on
    epoch, best, epochs = history[-1], best_epoch(history), training.settings.epochs
    parts = [f"epoch {epoch.epoch}/{epochs}", f"loss {epoch.train_loss:.3f}"]
    of_streams = [row for row in streams if row.epoch == epoch.epoch and row.train_accuracy is not None]
    parts += [f"{row.stream} alone {row.train_accuracy:.2f}" for row in of_streams]
    if epoch.selection_accuracy is not None:
        parts.append(f"{split} accuracy {epoch.selection_accuracy:.3f}, loss {epoch.selection_log_loss:.3f}")
    parts += [f"rate {epoch.learning_rate:.1e}", f"{epoch.clips_per_s:.0f} clips/s"]
    parts.append(f"{epoch.data_wait_share:.0%} waiting for data")
    if epoch.skipped_steps:
        parts.append(f"{epoch.skipped_steps} steps skipped, their gradients were not finite")
    if best.selection_accuracy is not None:
        parts.append(f"best {best.selection_accuracy:.3f} (epoch {best.epoch})")
    dead = dead_streams(epoch, streams)
    advice = "lower recipe.training.rate_scales.backbones"
    parts += [f"no gradient in the network for {name}: {advice}" for name in dead]
    seconds_left = (epochs - epoch.epoch) * sum(each.seconds for each in history) / len(history)
    return "  ".join([*parts, f"{seconds_left / 60:.1f} min left"])


def _append(training: Training, line: str) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    with (training.folder / LOG_NAME).open("a") as file:
        file.write(f"{now} UTC  {line}\n")
