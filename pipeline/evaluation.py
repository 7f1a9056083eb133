"""The result of a run: every clip of the manifest, with what the result comes from (P14, P15)."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import load_file

from pipeline.config import Config
from pipeline.distributed import names_a_lost_process
from pipeline.errors import UserError
from pipeline.inference import score_clips
from pipeline.labels import CLASSES
from pipeline.loader import locate
from pipeline.manifest import SPLITS, Clip, read_summary
from pipeline.metrics import NOT_SCORED, accuracy, accuracy_interval, log_loss, per_class
from pipeline.model import GroupEmotionModel
from pipeline.shard_files import open_index
from pipeline.training import MODEL_NAME, RUN_NAME, VAL, open_split

METRICS_NAME, PREDICTIONS_NAME, PROVENANCE_NAME = "metrics.json", "predictions.csv", "provenance.json"
QUARANTINED = "quarantined"


@dataclass(frozen=True)
class Evaluation:
    """A clip's probabilities are NaN, and its prediction `NOT_SCORED`, where it was quarantined.

    probabilities (clips, classes), predictions (clips,), in the order of `clips`.
    """

    clips: list[Clip]
    probabilities: NDArray[np.float64]
    predictions: NDArray[np.int64]
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Each clip's class, as an index in `CLASSES`: (clips,)."""
        return np.array([CLASSES.index(clip.label) for clip in self.clips])


def evaluate_run(config: Config, run_folder: Path, accelerator: Accelerator) -> Evaluation:
    """Score the validation clips with the run's model; every clip of the manifest is in the result."""
    run, model = load_run(config, run_folder)
    index, clips = open_split(config, VAL)
    located = locate(index, clips)
    with names_a_lost_process(config.execution.process_timeout_s):
        scored = score_clips(model.to(accelerator.device), located, config, accelerator)
    by_id = {ref.clip_id: row for ref, row in zip(located, scored, strict=True)}
    nothing = np.full(len(CLASSES), np.nan)
    probabilities = np.stack([by_id.get(clip.clip_id, nothing) for clip in clips])
    predictions = np.array([by_id[clip.clip_id].argmax() if clip.clip_id in by_id else NOT_SCORED for clip in clips])
    labels = np.array([CLASSES.index(clip.label) for clip in clips])
    summary = read_summary(config.manifests)
    return Evaluation(
        clips=clips,
        probabilities=probabilities,
        predictions=predictions,
        metrics={
            **measures(labels, predictions, probabilities),
            "seed": run["config"]["seed"],
            "selected_on": run["selected_on"],
            "selection_accuracy": run["selection_accuracy"],
            "label_sha256": summary[VAL]["label_sha256"],
            "code_version": run["code_version"],
        },
        provenance={"data": summary, "quarantined": quarantined_rows(config), "run": run},
    )


def quarantined_rows(config: Config) -> list[dict[str, str]]:
    """The quarantined clips of all splits, and why."""
    indexes = {split: open_index(config, split) for split in SPLITS}
    return [{"split": split, **vars(row)} for split, index in indexes.items() for row in index.quarantined]


def measures(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> dict[str, Any]:
    """Measures over all clips, a clip that was not scored counting as wrong; the log loss is over the scored ones."""
    scored = predictions != NOT_SCORED
    correct = int((labels == predictions).sum())
    low, high = accuracy_interval(correct, len(labels))
    classes = per_class(labels, predictions, len(CLASSES))
    return {
        "accuracy": accuracy(labels, predictions),
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": float(classes["recall"][np.isin(range(len(CLASSES)), labels)].mean()),
        "macro_f1": float(classes["f1"].mean()),
        "log_loss": log_loss(labels[scored], probabilities[scored]) if scored.any() else None,
        "clips": len(labels),
        "scored": int(scored.sum()),
        "quarantined_share": float(1 - scored.mean()),
    }


def load_run(config: Config, folder: Path) -> tuple[dict[str, Any], GroupEmotionModel]:
    """A finished run's record and its model; refuses one of another recipe, seed or data set."""
    path = folder / RUN_NAME
    try:
        run: dict[str, Any] = json.loads(path.read_text())
        weights = load_file(folder / MODEL_NAME)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename or folder / MODEL_NAME} is missing; run the train stage (dvc repro train)"
        ) from None
    for key in ("recipe", "seed", "dataset"):
        if run["config"][key] != config.model_dump()[key]:
            raise UserError(
                f"{path} is of a run with another {key} than params.yaml says; run the train stage (dvc repro train)"
            )
    model = GroupEmotionModel(config.recipe.model, config.recipe.features)
    model.load_state_dict(weights)
    return run, model


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write the measures, a row a clip, and what they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS_NAME).write_text(json.dumps(evaluation.metrics, indent=2) + "\n")
    (folder / PROVENANCE_NAME).write_text(json.dumps(evaluation.provenance, indent=2) + "\n")
    with (folder / PREDICTIONS_NAME).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["clip_id", "source_id", "label", "prediction", *CLASSES])
        rows = zip(evaluation.clips, evaluation.predictions, evaluation.probabilities, strict=True)
        for clip, prediction, probabilities in rows:
            name = QUARANTINED if prediction == NOT_SCORED else CLASSES[prediction]
            shown = ["" if np.isnan(p) else f"{p:.6f}" for p in probabilities]
            writer.writerow([clip.clip_id, clip.source_id, clip.label, name, *shown])
