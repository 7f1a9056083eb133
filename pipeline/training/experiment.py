"""The trainings of an experiment: for each seed a single one, or one for each fold."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.common.accelerator import start_accelerator
from pipeline.common.config import Config, RunId
from pipeline.common.workspace import is_copy, original_workspace
from pipeline.training.checkpoint import Resume
from pipeline.training.loop import train_model

STORE = Path("runs/by_fingerprint")


def train_seeds(config: Config, seeds: Iterable[int], resume: Resume) -> None:
    """Train all runs of the seeds, one after the other; raises `Stopped` as `train_model` does.

    After the last one, the processes of this launch leave their group, and cannot join another one.
    """
    store = original_workspace() / STORE
    for run in [run for seed in seeds for run in config.run_ids(seed)]:
        # A new accelerator for each run: the last one's scaler and trackers keep the state of the run before.
        accelerator = start_accelerator(config)
        train_model(config, run, accelerator, config.runs / run.folder, checkpoints_of(config, run), resume, store)
        accelerator.free_memory()
    accelerator.end_training()


def checkpoints_of(config: Config, run: RunId) -> Path:
    """The folder of the checkpoints of a run.

    Queued experiments that differ in a setting alone have the same recipe and seed, and may run at the same time. So
    each has a folder of its own, in the original workspace, because DVC removes the copy that an experiment runs in.
    """
    folder = config.checkpoints / run.folder
    if not is_copy():
        return folder
    settings = config.of_run(run).model_dump_json(exclude={"execution", "extract", "launch"})
    digest = hashlib.sha256(settings.encode()).hexdigest()
    return original_workspace() / folder.with_name(f"{folder.name}-{digest[:12]}")
