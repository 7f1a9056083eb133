"""The result of a run: every clip of the manifest, with what the result comes from (P14, P15)."""

import io
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import SPLITS, read_summary
from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.metrics import (
    NOT_SCORED,
    accuracy,
    accuracy_interval,
    bootstrap_intervals,
    calibration_error,
    log_loss,
    per_class,
    reliability,
)
from pipeline.loading.loader import ClipRef, Memory, collate, locate, read_sample
from pipeline.models.model import GroupEmotionModel
from pipeline.models.runs import RUN_NAME, open_run
from pipeline.models.scoring import ScoredClip, score_clips
from pipeline.results.data_card import describe_clips
from pipeline.results.explanation import explain
from pipeline.results.predictions import Predictions, write_predictions
from pipeline.results.tables import (
    METRICS_NAME,
    MISTAKES_NAME,
    PER_CLASS_NAME,
    PER_SOURCE_NAME,
    PREDICTIONS_NAME,
    PROVENANCE_NAME,
    RELIABILITY_NAME,
    mistake_name,
    write_table,
)
from pipeline.shards.files import open_index
from pipeline.training.distributed import names_a_lost_process
from pipeline.training.loop import VAL, open_split

SHOWN_MISTAKES = 12
# arXiv 2111.05890, on VGAF's validation split. It is no multiple of 1/766, so it was not computed over all clips once.
PAPER_ACCURACY = 0.6037
VGAF_VAL_CLIPS, VGAF_VAL_SOURCES = 766, 65


@dataclass(frozen=True)
class Evaluation:
    """A run's predictions for the validation split, what is measured on them, and what they come from."""

    predictions: Predictions
    metrics: dict[str, Any]
    per_class: list[dict[str, Any]]
    reliability: list[dict[str, Any]]
    per_source: list[dict[str, Any]]
    mistakes: dict[str, bytes]
    provenance: dict[str, Any]


def evaluate_run(config: Config, run_folder: Path, accelerator: Accelerator) -> Evaluation:
    """Score the validation clips with the run's model; every clip of the manifest is in the result."""
    run, model = load_run(config, run_folder)
    index, clips = open_split(config, VAL)
    located = locate(index, clips)
    with names_a_lost_process(config.execution.process_timeout_s):
        scored = score_clips(model.to(accelerator.device), located, config, accelerator)
    by_id = {ref.clip_id: row for ref, row in zip(located, scored, strict=True)}
    nothing = np.full(len(CLASSES), np.nan)
    predictions = Predictions(
        clip_ids=[clip.clip_id for clip in clips],
        source_ids=[clip.source_id for clip in clips],
        labels=np.array([CLASSES.index(clip.label) for clip in clips]),
        predictions=np.array([by_id[clip.clip_id].argmax() if clip.clip_id in by_id else NOT_SCORED for clip in clips]),
        probabilities=np.stack([by_id.get(clip.clip_id, nothing) for clip in clips]),
    )
    summary = read_summary(config.manifests)
    indexes = {split: open_index(config, split) for split in SPLITS}
    measures, classes = measured(predictions)
    return Evaluation(
        predictions=predictions,
        metrics={
            **measures,
            **against_the_paper(config, summary[VAL], measures),
            "seed": run["config"]["seed"],
            "selected_on": run["selected_on"],
            "selection_accuracy": run["selection_accuracy"],
            "label_sha256": summary[VAL]["label_sha256"],
            "code_version": run["code_version"],
        },
        per_class=classes,
        reliability=reliability_rows(predictions),
        per_source=source_rows(predictions),
        mistakes={
            ref.clip_id: picture_of(ref, probabilities, model, config, accelerator)
            for ref, probabilities in worst_mistakes(located, scored)
        }
        if accelerator.is_main_process
        else {},
        provenance={
            "data": summary,
            "clips": {split: describe_clips(index) for split, index in indexes.items()},
            "quarantined": [
                {"split": split, **vars(row)} for split, index in indexes.items() for row in index.quarantined
            ],
            "run": run,
        },
    )


def measured(predictions: Predictions) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measures over all clips, and a row of them a class; each with a 95% interval, `..._low` to `..._high`.

    A clip that was not scored counts as wrong; log loss and calibration error are over the scored ones. Accuracy has
    Wilson's interval, which takes clips as independent, and like all others (`accuracy_sources_...`) that over sources.
    None stands for what is not defined.
    """
    labels, answers = predictions.labels, predictions.predictions
    found = scores(labels, answers, predictions.probabilities)
    intervals = bootstrap_intervals(
        lambda clips: scores(labels[clips], answers[clips], predictions.probabilities[clips]), predictions.source_ids
    )
    intervals["accuracy_sources"] = intervals["accuracy"]
    intervals["accuracy"] = accuracy_interval(int((labels == answers).sum()), len(labels))
    bounds = {
        f"{key}_{end}": value
        for key, pair in intervals.items()
        for end, value in zip(("low", "high"), pair, strict=True)
    }
    table = {key: None if math.isnan(value) else value for key, value in {**found, **bounds}.items()}
    scored = answers != NOT_SCORED
    measures = {key: value for key, value in table.items() if "." not in key}
    measures |= {"clips": len(labels), "scored": int(scored.sum()), "quarantined_share": float(1 - scored.mean())}
    classes = [
        {"class": name, "clips": int((labels == i).sum())}
        | {key.partition(".")[2]: value for key, value in table.items() if key.startswith(f"{name}.")}
        for i, name in enumerate(CLASSES)
    ]
    return measures, classes


def scores(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> dict[str, float]:
    """Measures of clips, those of a class as `class.measure`; NaN for what is not defined."""
    classes = per_class(labels, predictions, len(CLASSES))
    scored = predictions != NOT_SCORED
    likelihoods = labels[scored], probabilities[scored]
    return {
        "accuracy": accuracy(labels, predictions),
        "balanced_accuracy": float(classes["recall"][np.isin(range(len(CLASSES)), labels)].mean()),
        "macro_f1": float(classes["f1"].mean()),
        "log_loss": log_loss(*likelihoods) if scored.any() else math.nan,
        "calibration_error": calibration_error(*likelihoods) if scored.any() else math.nan,
        **{f"{CLASSES[i]}.{name}": float(values[i]) for name, values in classes.items() for i in range(len(CLASSES))},
    }


def reliability_rows(predictions: Predictions) -> list[dict[str, Any]]:
    """A row for each bin of the reliability diagram."""
    scored = predictions.predictions != NOT_SCORED
    bins = reliability(predictions.labels[scored], predictions.probabilities[scored])
    return [
        dict(zip(bins, row, strict=True)) for row in zip(*(values.tolist() for values in bins.values()), strict=True)
    ]


def source_rows(predictions: Predictions) -> list[dict[str, Any]]:
    """Clips and accuracy of each source, the worst first: clips of one source stand and fall together."""
    right, sources = predictions.labels == predictions.predictions, np.array(predictions.source_ids)
    rows = [
        {
            "source_id": str(source),
            "clips": int((sources == source).sum()),
            "accuracy": float(right[sources == source].mean()),
        }
        for source in np.unique(sources)
    ]
    return sorted(rows, key=lambda row: (row["accuracy"], row["source_id"]))


def worst_mistakes(
    clips: Sequence[ClipRef], probabilities: NDArray[np.float64]
) -> list[tuple[ClipRef, NDArray[np.float64]]]:
    """The scored clips that are wrong with the highest confidence, with their probabilities."""
    wrong = [(clip, row) for clip, row in zip(clips, probabilities, strict=True) if row.argmax() != clip.label]
    return sorted(wrong, key=lambda pair: -pair[1].max())[:SHOWN_MISTAKES]


def picture_of(
    clip: ClipRef,
    probabilities: NDArray[np.float64],
    model: GroupEmotionModel,
    config: Config,
    accelerator: Accelerator,
) -> bytes:
    """What the model saw of a clip and attended to, as JPEG."""
    sample = read_sample(clip)
    batch = collate([sample], [clip.label], config.recipe.features, Memory()).to(accelerator.device)
    scored = ScoredClip(f"{clip.clip_id}, labelled {CLASSES[clip.label]}", sample.duration_s, batch, probabilities)
    file = io.BytesIO()
    explain(scored, model, accelerator).savefig(file, format="jpeg", dpi=70)
    return file.getvalue()


def against_the_paper(config: Config, summary: dict[str, Any], measures: dict[str, Any]) -> dict[str, Any]:
    """Whether the paper's accuracy is reached, by the interval: within or below it.

    Only where the validation split has as many clips and sources as VGAF's; label files differ (`label_sha256`).
    """
    drawn = bool(config.dataset.synthesize)
    if drawn or (summary["clips"], summary["sources"]) != (VGAF_VAL_CLIPS, VGAF_VAL_SOURCES):
        return {"reproduced": "not applicable"}
    return {"reproduced": bool(measures["accuracy_high"] >= PAPER_ACCURACY)}


def load_run(config: Config, folder: Path) -> tuple[dict[str, Any], GroupEmotionModel]:
    """A finished run's record and its model; refuses one of another recipe, seed or data set."""
    made_with, record, model = open_run(folder)
    for key in ("recipe", "seed", "dataset"):
        if getattr(made_with, key) != getattr(config, key):
            raise UserError(
                f"{folder / RUN_NAME} is of a run with another {key} than params.yaml says; "
                "run the train stage (dvc repro train)"
            )
    return record, model


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write the measures, a row a clip, a class and a bin, and what they come from."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in ((METRICS_NAME, evaluation.metrics), (PROVENANCE_NAME, evaluation.provenance)):
        (folder / name).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    write_predictions(evaluation.predictions, folder / PREDICTIONS_NAME)
    pictures = folder / MISTAKES_NAME
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir()
    for place, (clip_id, picture) in enumerate(evaluation.mistakes.items(), 1):
        (pictures / mistake_name(place, clip_id)).write_bytes(picture)
    write_table(evaluation.per_class, list(evaluation.per_class[0]), folder / PER_CLASS_NAME)
    write_table(evaluation.per_source, list(evaluation.per_source[0]), folder / PER_SOURCE_NAME)
    write_table(evaluation.reliability, ["confidence", "accuracy", "clips"], folder / RELIABILITY_NAME)
