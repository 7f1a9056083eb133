"""A training before its first step: clips, network, optimiser, trackers, and what an earlier checkpoint left."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import nn

from pipeline.common.accelerator import TRACKER_LOGS
from pipeline.common.config import Config, RunId
from pipeline.common.errors import UserError
from pipeline.common.provenance import Environment, environment
from pipeline.common.recipe import TrainingSettings
from pipeline.loading.plan import balanced_draw, count_steps, plan_epoch, shard_numbers
from pipeline.loading.selection import ROLES_KEY, TrainingClips, select_clips
from pipeline.models.initial_weights import load_initial_weights
from pipeline.models.model import GroupEmotionModel
from pipeline.models.run_record import Identity, InitialWeights, LoadedWeights
from pipeline.models.weights import load_weights
from pipeline.training.checkpoint import (
    Resume,
    load_checkpoint,
    refuse_another_training,
    refuse_other_clips,
    remove_checkpoints,
)
from pipeline.training.distributed import Pauses
from pipeline.training.epoch_sums import no_sums
from pipeline.training.identity import differences, training_fingerprint, training_identity
from pipeline.training.objective import Objective, class_weights
from pipeline.training.optimization import build_optimizer, moving_average
from pipeline.training.state import TrainingState
from pipeline.training.step_statistics import StepStatistics

# With 11%, EfficientNet-Lite0 from scratch scored as by chance where its last weights did not (docs/learning.md).
MOST_RANDOM_IN_AVERAGE = 0.05
NORM_STATISTICS = ("running_mean", "running_var")  # of BatchNorm, by the end of their names


@dataclass
class Training:
    """A training run: what it works with, and its state, which is all that changes (apart from the clock).

    `folder` is that of the run; its checkpoints are in `checkpoints` until it is finished. `pretrained` says which
    weights the backbones started from, and `initial` what then came from another run. `environment` is what this
    process started with: a commit that is made while it trains has no part in it. `wrapped` is the objective as
    Accelerate wraps it.
    """

    config: Config
    run: RunId
    accelerator: Accelerator
    folder: Path
    checkpoints: Path
    clips: TrainingClips
    steps_per_epoch: int
    identity: Identity
    pretrained: Mapping[str, LoadedWeights]
    initial: InitialWeights | None
    environment: Environment
    wrapped: nn.Module
    statistics: StepStatistics
    pauses: Pauses
    state: TrainingState
    _ticked_s: float = field(default_factory=time.monotonic)

    @property
    def settings(self) -> TrainingSettings:
        """How the model is trained."""
        return self.config.recipe.training

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.settings.epochs * self.steps_per_epoch

    @property
    def scored_model(self) -> GroupEmotionModel:
        """The model that is scored, selected and published: the moving average, if there is one."""
        average = self.state.average
        return average.module if average else self.state.model  # type: ignore[return-value]

    def plan_of_epoch(self, epoch: int) -> NDArray[np.int64]:
        """The clips of each step of an epoch, as positions in `clips.training`: (steps, batch_size)."""
        settings, seed, shards = self.settings, self.run.seed, shard_numbers(self.clips.training)
        drawn = np.arange(len(shards))
        if settings.class_balance == "draws":
            drawn = balanced_draw(np.array([clip.label for clip in self.clips.training]), seed, epoch)
        return drawn[plan_epoch(shards[drawn], settings.batch_size, settings.shuffle_shards, seed, epoch)]

    def frames_of_steps(self, first: int, count: int) -> NDArray[np.int64]:
        """The stored frames of each clip of `count` steps, beginning with step `first`: (steps, batch_size, frames)."""
        sampling, clips = self.state.model.sampling, self.settings.batch_size
        return np.stack([sampling.draw(self.run.seed, step, clips) for step in range(first, first + count)])

    def tick(self) -> None:
        """Add the time since the last call to the running epoch."""
        now_s = time.monotonic()
        self.state.elapsed_s += now_s - self._ticked_s
        self._ticked_s = now_s


def start_training(config: Config, run: RunId, accelerator: Accelerator, folder: Path, checkpoints: Path) -> Training:
    """Set up a training run.

    Raises `UserError` if the clips are fewer than a step has, and if the processes differ in settings, data or code.
    """
    clips = select_clips(config, run.fold)
    steps_per_epoch = count_steps(len(clips.training), config.recipe.training.batch_size)
    torch.manual_seed(run.seed)
    model = GroupEmotionModel(config.recipe.model, config.recipe.features, config.dataset.classes)
    pretrained = load_pretrained(model, config, accelerator)
    # Second, so that a network which the other run lacks keeps its published weights.
    initial = load_initial_weights(model, config, clips.digests[ROLES_KEY], folder)
    if initial:
        accelerator.print(f"init: {initial.weights}")
    require_norm_statistics(model, pretrained, initial)
    random = [] if initial else [name for name in model.backbones() if name not in pretrained]
    warn_of_random_weights_in_average(config.recipe.training, steps_per_epoch, random, accelerator)
    identity = training_identity(config, run, clips, pretrained, initial, accelerator)
    for rank, other in enumerate(gather_object([identity])):
        if changes := differences(identity, other):
            raise UserError(f"process {rank} trains something else than this one: {'; '.join(changes)}")
    state = initial_state(model, config.recipe.training, clips, accelerator)
    return Training(
        config=config,
        run=run,
        accelerator=accelerator,
        folder=folder,
        checkpoints=checkpoints,
        clips=clips,
        steps_per_epoch=steps_per_epoch,
        identity=identity,
        pretrained=pretrained,
        initial=initial,
        environment=environment(),
        wrapped=accelerator.prepare_model(state.objective),
        statistics=StepStatistics(model),
        pauses=Pauses(config.execution.process_timeout_s, config.execution.checkpoint_minutes),
        state=state,
    )


def initial_state(
    model: GroupEmotionModel, settings: TrainingSettings, clips: TrainingClips, accelerator: Accelerator
) -> TrainingState:
    """The state before the first step, with the model on its device and in its memory layout."""
    weights = class_weights([clip.label for clip in clips.training], len(model.labels), settings.class_balance)
    objective = Objective(model, settings, weights).to(accelerator.device)
    if settings.channels_last:
        to_channels_last(model)
    average = moving_average(model, settings)
    optimizer = build_optimizer(objective, settings)
    if settings.compile:
        objective.compile()
    return TrainingState(
        sums=no_sums(accelerator.num_processes, len(objective.heads), accelerator.device),
        objective=objective,
        average=average,
        optimizer=accelerator.prepare_optimizer(optimizer),
        scaler=accelerator.scaler,
    )


def load_pretrained(model: GroupEmotionModel, config: Config, accelerator: Accelerator) -> dict[str, LoadedWeights]:
    """Load the weights that the recipe asks for into the backbones; the first process of a machine fetches them."""
    loaded: dict[str, LoadedWeights] = {}
    with accelerator.local_main_process_first():
        for name, network in model.backbones().items():
            settings = config.recipe.model.used[name]
            if weights := load_weights(network, settings, Path(config.execution.pretrained)):
                accelerator.print(f"{name}: {weights}")
                loaded[name] = weights
    return loaded


def require_norm_statistics(
    model: GroupEmotionModel, pretrained: Mapping[str, LoadedWeights], initial: InitialWeights | None
) -> None:
    """Raise `UserError` if BatchNorm is to keep loaded statistics in a network into which not all were loaded."""
    filled = initial.weights.matched if initial else []
    for name, backbone in model.backbones().items():
        needed = [key for key in backbone.network.state_dict() if key.endswith(NORM_STATISTICS)]
        loaded = {*(pretrained[name].matched if name in pretrained else [])}
        loaded |= {key.removeprefix(f"networks.{name}.network.") for key in filled}
        if not model.norm_clips and (absent := [key for key in needed if key not in loaded]):
            raise UserError(
                "recipe.model.norm_clips is 0, so BatchNorm keeps the statistics that were loaded, but "
                f"{len(absent)} of {len(needed)} in the network for {name} were not loaded: set norm_clips to 8, "
                f"recipe.model.streams.{name}.weights, or another init"
            )


def warn_of_random_weights_in_average(
    settings: TrainingSettings, steps_per_epoch: int, random: Sequence[str], accelerator: Accelerator
) -> None:
    """Warn if much of the moving average will still be the random weights of some networks after the last step."""
    steps = steps_per_epoch * settings.epochs
    share = 0.0 if settings.ema_warmup else settings.ema_decay**steps
    if random and share > MOST_RANDOM_IN_AVERAGE:
        accelerator.print(
            f"warning: after {steps} steps with recipe.training.ema_decay {settings.ema_decay:g}, {share:.0%} of the "
            "moving average, which is the model that is scored, will be the random weights that the networks for "
            f"{' and '.join(random)} start with; set recipe.training.ema_warmup to true",
            file=sys.stderr,
        )


def to_channels_last(model: nn.Module) -> None:
    """Change the memory layout of convolution kernels, for pictures and for clips, to channels last."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.dim() in formats:
            # `contiguous` would leave kernels with one input channel as they are, which makes each step slower.
            parameter.data = parameter.data.to(memory_format=formats[parameter.dim()])


def start_trackers(training: Training) -> None:
    """Start the trackers. Each training run has a folder of its own, and uses it again when it is resumed."""
    accelerator = training.accelerator
    shown = {key: str(value) for key, value in training.identity.items()}
    name = training_fingerprint(training.identity)[:12]
    folder = TRACKER_LOGS / name
    accelerator.project_configuration.logging_dir = str(folder)
    options = {
        "dvclive": {"dir": str(folder / "dvclive"), "save_dvc_exp": False, "resume": True},
        "wandb": {"id": name, "resume": "allow"},
    }
    accelerator.init_trackers(training.config.dataset.name, shown, options)


@contextmanager
def finishing_trackers(accelerator: Accelerator) -> Iterator[None]:
    """At the end of this context, however it comes, the trackers write what they still hold."""
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers = []


def resume_training(training: Training, resume: Resume) -> None:
    """Continue from the last checkpoint, if there is one.

    Raises `UserError` for a checkpoint of another training, unless `resume` is `changed` (continue it) or `afresh`
    (remove it).
    """
    folder, accelerator = training.checkpoints, training.accelerator
    if resume == "afresh" and accelerator.is_main_process:
        remove_checkpoints(folder)
    accelerator.wait_for_everyone()
    checkpoint = load_checkpoint(folder)
    _check_same_step(checkpoint.record.position.step if checkpoint else 0, folder)
    if not folder.exists():
        print(f"warning: {folder} of the first machine is not visible here; resuming needs it", file=sys.stderr)
    if checkpoint is None:
        return
    record = checkpoint.record
    refuse_other_clips(record, training.identity, folder)
    if resume == "exact":
        refuse_another_training(record, training.identity, folder)
    if record.steps_per_epoch != training.steps_per_epoch:
        raise UserError(
            f"{folder} is of a training run with {record.steps_per_epoch} steps per epoch, now there are "
            f"{training.steps_per_epoch}: it cannot be continued with other clips or another batch size; "
            "add --resume afresh"
        )
    try:
        training.state.restore(record.position, checkpoint.tensors, accelerator.process_index)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{folder} is of another network ({str(error).splitlines()[0]}); remove it") from None
    training.state.changes = [*record.position.changes, *differences(record.identity, training.identity)]
    accelerator.print(f"continuing after step {training.state.step}")


def _check_same_step(step: int, folder: Path) -> None:
    if len(steps := set(gather_object([step]))) > 1:
        raise UserError(
            f"the processes see checkpoints of different steps, {sorted(steps)}: put {folder} on a disk that all "
            "machines share, copy the first machine's to the others, or remove it on all of them"
        )
