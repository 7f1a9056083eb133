"""A finished training becomes a run: its record, the chosen weights and the last ones, beside its histories."""

from dataclasses import asdict

import torch

from pipeline.models.run_record import ClipCounts, RunRecord
from pipeline.models.runs import write_run
from pipeline.training.history import best_epoch
from pipeline.training.identity import training_fingerprint
from pipeline.training.setup import Training
from pipeline.training.state import weights_of


def write_finished(training: Training) -> None:
    """Write the run of a finished training, whose histories are written already (`record_epoch`)."""
    last = weights_of(training.scored_model)
    write_run(training.folder, run_record(training), chosen=training.state.best, last=last)


def run_record(training: Training) -> RunRecord:
    """What a run was made from and with."""
    state, chosen = training.state, best_epoch(training.state.history)
    return RunRecord(
        config=training.config.of_run(training.run),
        run=training.run,
        identity=training.identity,
        fingerprint=training_fingerprint(training.identity),
        resumed_with_changes=state.changes,
        parameters=sum(parameter.numel() for parameter in state.model.parameters()),
        pretrained=dict(training.pretrained),
        interfaces={name: network.interface for name, network in state.model.backbones().items()},
        clips=ClipCounts(training=len(training.clips.training), selection=len(training.clips.selection)),
        selected_on=training.settings.select_on,
        selected_epoch=chosen.epoch,
        selection_accuracy=chosen.selection_accuracy,
        seconds=round(sum(epoch.seconds for epoch in state.history), 1),
        processes=training.accelerator.num_processes,
        device=device_name(training.accelerator.device),
        **asdict(training.environment),
        initial=training.initial,
    )


def device_name(device: torch.device) -> str:
    """The device as a reader of a result would name it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
