"""Evaluating a run: it scores every clip of the manifest and writes what the result comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from pipeline.clips.manifest import SPLITS, VAL, DatasetSummary, read_summary
from pipeline.common.accelerator import names_a_lost_process
from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.records import write_record, write_table
from pipeline.loading.selection import locate, open_split
from pipeline.models.run_record import RUN_NAME, RunRecord
from pipeline.models.runs import FinishedRun, open_run
from pipeline.models.scoring import Scorer
from pipeline.results.data_card import describe_clips
from pipeline.results.literature import is_reproduced
from pipeline.results.mistakes import draw_mistakes
from pipeline.results.predictions import Predictions, predictions_of, write_predictions
from pipeline.results.result_files import (
    METRICS_NAME,
    MISTAKES_NAME,
    PER_CLASS_NAME,
    PER_SOURCE_NAME,
    PREDICTIONS_NAME,
    PROVENANCE_NAME,
    RELIABILITY_NAME,
    ClassMeasures,
    Metrics,
    Provenance,
    QuarantinedClip,
    ReliabilityBin,
    SourceAccuracy,
    write_class_measures,
    write_mistakes,
)
from pipeline.results.result_measures import measure, reliability_bins, source_accuracies
from pipeline.shards.files import open_index


@dataclass(frozen=True)
class Evaluation:
    """A run's predictions of the validation split, what is measured of them, and what they come from.

    `mistakes` holds JPEG pictures by clip id, the most confident mistake first.
    """

    predictions: Predictions
    metrics: Metrics
    classes: list[ClassMeasures]
    sources: list[SourceAccuracy]
    reliability: list[ReliabilityBin]
    mistakes: Mapping[str, bytes]
    provenance: Provenance


def evaluate_run(config: Config, run_folder: Path, accelerator: Accelerator) -> Evaluation:
    """Score the validation clips with a run's model.

    Every clip of the manifest is in the result. Only the main process draws the mistakes. Raises `UserError` for a run
    that was made with another recipe, seed or data set than `config` names.
    """
    run = open_matching_run(config, run_folder)
    scorer = Scorer(run.model, accelerator)
    index, clips = open_split(config, VAL)
    located = locate(index, clips, config.dataset.classes)
    with names_a_lost_process(config.execution.process_timeout_s):
        probabilities = scorer.score(located, config)
    scored = {clip.clip_id: row for clip, row in zip(located, probabilities, strict=True)}
    predictions = predictions_of(clips, scored, config.dataset.classes)
    measures, classes = measure(predictions)
    data = read_summary(config.manifests)
    return Evaluation(
        predictions=predictions,
        metrics=Metrics(
            **vars(measures),
            reproduced=is_reproduced(config, data.val, measures.accuracy_high),
            seed=run.config.seed,
            selected_on=run.record.selected_on,
            selection_accuracy=run.record.selection_accuracy,
            label_sha256=data.val.label_sha256,
            code_version=run.record.code_version,
        ),
        classes=classes,
        sources=source_accuracies(predictions),
        reliability=reliability_bins(predictions),
        mistakes=draw_mistakes(located, probabilities, scorer) if accelerator.is_main_process else {},
        provenance=provenance_of(config, data, run.record),
    )


def open_matching_run(config: Config, folder: Path) -> FinishedRun:
    """Open a finished run; raises `UserError` if its recipe, seed or data set is not that of `config`."""
    run = open_run(folder)
    for key in ("recipe", "seed", "dataset"):
        if getattr(run.config, key) != getattr(config, key):
            raise UserError(
                f"{folder / RUN_NAME} was made with another {key} than the settings name; "
                "run the train stage (dvc repro train)"
            )
    return run


def provenance_of(config: Config, data: DatasetSummary, run: RunRecord) -> Provenance:
    """What a result of a run comes from."""
    indexes = {split: open_index(config, split) for split in SPLITS}
    return Provenance(
        data=data,
        clips={split: describe_clips(index) for split, index in indexes.items()},
        quarantined=[
            QuarantinedClip(split, clip.clip_id, clip.reason, clip.detail)
            for split, index in indexes.items()
            for clip in index.quarantined
        ],
        run=run,
    )


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write the folder of results (`pipeline.results.result_files`)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_record(evaluation.metrics, folder / METRICS_NAME)
    write_record(evaluation.provenance, folder / PROVENANCE_NAME)
    write_predictions(evaluation.predictions, folder / PREDICTIONS_NAME)
    write_mistakes(evaluation.mistakes, folder / MISTAKES_NAME)
    write_class_measures(evaluation.classes, folder / PER_CLASS_NAME)
    write_table(SourceAccuracy, evaluation.sources, folder / PER_SOURCE_NAME)
    write_table(ReliabilityBin, evaluation.reliability, folder / RELIABILITY_NAME)
