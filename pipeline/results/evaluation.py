"""Evaluating runs: every clip that a result is about is scored once, and what the result comes from is written."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from accelerate import Accelerator

from pipeline.clips.manifest import SPLITS, TRAIN, VAL, read_summary
from pipeline.clips.splits import Assignment, read_assignments, summarize_roles
from pipeline.common.accelerator import names_a_lost_process
from pipeline.common.config import Config, RunId
from pipeline.common.errors import UserError
from pipeline.loading.selection import ROLES_KEY, Subset, clips_by_role, clips_of_split, roles_digest
from pipeline.models.run_record import RUN_NAME, Epoch, RunRecord, StreamEpoch
from pipeline.models.runs import FinishedRun, open_run
from pipeline.models.scoring import Scorer
from pipeline.results.calibration import fit_temperature, scale
from pipeline.results.data_card import describe_clips
from pipeline.results.mistakes import Scored, draw_mistakes
from pipeline.results.predictions import Predictions, concatenate, predictions_of
from pipeline.results.result_files import CurvePoint, Provenance, StreamCurvePoint
from pipeline.shards.files import open_index
from pipeline.shards.index import quarantined_clips


@dataclass(frozen=True)
class Evaluation:
    """What one seed predicts, and what that comes from.

    `dev` are its predictions of the clips held out of training, None if no clip was. `scaled` are its predictions with
    the temperature that dev gives, one for each fold; without dev they are None, and `temperatures` is empty.
    `mistakes` holds JPEG pictures by clip id, the most confident mistake first.
    """

    seed: int
    predictions: Predictions
    dev: Predictions | None
    scaled: Predictions | None
    temperatures: list[float]
    curves: list[CurvePoint]
    stream_curves: list[StreamCurvePoint]
    mistakes: dict[str, bytes]
    provenance: Provenance


def evaluate_seed(config: Config, seed: int, accelerator: Accelerator) -> Evaluation:
    """Score the reported clips, and those of dev, with the runs of a seed: one, or one for each fold.

    Only the main process draws the mistakes. Raises `UserError` for a run that was made with other settings or clips
    than `config` names, and if every labelled clip was trained on.
    """
    if config.fit_on == "train_and_val" and config.folds is None:
        raise UserError(
            "fit_on is train_and_val: every labelled clip is trained on, so there is nothing to report; train alone "
            "(dvc exp run ... train) and use the runs for predict and submit"
        )
    parts = []
    for run_id in config.run_ids(seed):
        run = open_matching_run(config, run_id)
        clips, _ = clips_by_role(config, run_id.fold)
        parts.append(evaluate_run(run, config, clips["test"], clips["dev"], accelerator))
    return combine_parts(config, seed, parts, reported_splits(config), accelerator)


def reported_splits(config: Config) -> list[str]:
    """The splits of the manifest whose clips are reported: val, or with folds those that are cut into folds."""
    if config.folds is None:
        return [VAL]
    return [TRAIN, VAL] if config.fit_on == "train_and_val" else [TRAIN]


def evaluate_split(run: FinishedRun, config: Config, split: str, accelerator: Accelerator) -> Evaluation:
    """Score all clips of a split, train, dev or val, of the data set that `config` names, with any run.

    Raises `UserError` for a data set with other classes than the run's, and for val if the run was fitted on it. Train
    is scored with the clips that the run was fitted on, because who names it asks for them.
    """
    classes = read_summary(config.manifests).classes
    if classes != run.config.dataset.classes:
        raise UserError(
            f"{config.dataset.name} has the classes {', '.join(classes)}, and the run "
            f"{', '.join(run.config.dataset.classes)}; name a data set with the same classes in the same order"
        )
    if split == VAL and (number := count_fitted(run.record, config, VAL)) != 0:
        raise UserError(
            f"the run was fitted on {number or 'some'} of the val clips of {config.dataset.name}, so their accuracy "
            "says nothing about other clips; score another data set with --dataset, or all folds together with --seed"
        )
    dev = held_out_clips(run, config)
    tested = dev if split == "dev" else clips_of_split(config, split)
    if not tested.clips:
        why = ", or its splits.csv is no longer that of the training" if split == "dev" else ""
        raise UserError(
            f"{config.dataset.name} has no {split} clips for this run{why}; name another --split or --dataset"
        )
    part = evaluate_run(run, config, tested, Subset([], []) if split == "dev" else dev, accelerator)
    return combine_parts(config.model_copy(update={"folds": None}), run.record.run.seed, [part], [split], accelerator)


def count_fitted(run: RunRecord, config: Config, split: str) -> int | None:
    """How many clips of a split, train or val, of the data set that `config` names a run was fitted on.

    None if the run was fitted on an unknown number, because `splits.csv` is not that of its training.
    """
    if rows := roles_in_training(run, config):
        return sum(row.role == "fit" and row.split == split for row in rows)
    is_other = config.dataset.name != run.config.dataset.name
    return 0 if is_other or (split == VAL and run.config.fit_on != "train_and_val") else None


def held_out_clips(run: FinishedRun, config: Config) -> Subset:
    """The clips of dev of a run; none of another data set, and none if `splits.csv` is not that of the training.

    In another `splits.csv`, the run may have been fitted on the clips of dev.
    """
    if not roles_in_training(run.record, config):
        return Subset([], [])
    clips, _ = clips_by_role(config, run.record.run.fold)
    return clips["dev"]


def roles_in_training(run: RunRecord, config: Config) -> list[Assignment]:
    """The rows of `splits.csv` that a run was trained by; an empty list if the file has changed or is missing."""
    try:
        rows = read_assignments(config.manifests, run.run.fold)
    except UserError:
        return []
    return rows if config.dataset.name == run.config.dataset.name and was_trained_by(run, rows) else []


def was_trained_by(run: RunRecord, rows: Sequence[Assignment]) -> bool:
    """Whether these rows of `splits.csv` are those of the training of a run."""
    return run.identity.get(ROLES_KEY) == roles_digest(rows)


@dataclass(frozen=True)
class EvaluatedRun:
    """What one run predicts of the reported clips and of dev."""

    run: RunRecord
    history: list[Epoch]
    streams: list[StreamEpoch]
    predictions: Predictions
    dev: Predictions | None
    scored: Scored


def evaluate_run(
    run: FinishedRun, config: Config, tested: Subset, dev: Subset, accelerator: Accelerator
) -> EvaluatedRun:
    """Score clips with one run; the clips that are not in the shards are among the predictions, as quarantined."""
    scorer = Scorer(run.model, accelerator)
    classes = config.dataset.classes

    def predict(subset: Subset) -> tuple[Predictions, Scored]:
        with names_a_lost_process(config.execution.process_timeout_s):
            probabilities = scorer.score(subset.located, config)
        by_id = {clip.clip_id: row for clip, row in zip(subset.located, probabilities, strict=True)}
        return predictions_of(subset.clips, by_id, classes, run.record.run.fold), Scored(
            subset.located, probabilities, scorer
        )

    predictions, scored = predict(tested)
    held_out = predict(dev)[0] if dev.located else None
    return EvaluatedRun(run.record, run.history, run.streams, predictions, held_out, scored)


def combine_parts(
    config: Config, seed: int, parts: Sequence[EvaluatedRun], reported: list[str], accelerator: Accelerator
) -> Evaluation:
    """The evaluation of a seed from those of its runs; `reported` are the splits of the reported clips."""
    scaled, temperatures = [], []
    for part in parts:
        if part.dev is not None and (temperature := fit_temperature(part.dev)) is not None:
            temperatures.append(temperature)
            scaled.append(scale(part.predictions, temperature))
    held_out = [part.dev for part in parts if part.dev is not None]
    return Evaluation(
        seed=seed,
        predictions=concatenate([part.predictions for part in parts]),
        dev=concatenate(held_out) if held_out else None,
        scaled=concatenate(scaled) if len(scaled) == len(parts) else None,
        temperatures=temperatures,
        curves=[
            CurvePoint(seed, part.run.run.fold, epoch.epoch, epoch.train_loss, epoch.selection_accuracy)
            for part in parts
            for epoch in part.history
        ],
        stream_curves=[
            StreamCurvePoint(seed=seed, fold=part.run.run.fold, **asdict(row)) for part in parts for row in part.streams
        ],
        mistakes=draw_mistakes([part.scored for part in parts]) if accelerator.is_main_process else {},
        provenance=provenance_of(config, [part.run for part in parts], reported),
    )


def open_matching_run(config: Config, run_id: RunId) -> FinishedRun:
    """Open a finished run; raises `UserError` if it was made with another recipe, seed, data set or other clips."""
    folder, rows = config.runs / run_id.folder, read_assignments(config.manifests, run_id.fold)
    run = open_run(folder)
    before, now = run.config, config
    differing = {
        "recipe": before.recipe != now.recipe,
        "seed or fold": run.record.run != run_id,
        "data set": (before.dataset.name, before.dataset.classes) != (now.dataset.name, now.dataset.classes),
        "split": not was_trained_by(run.record, rows),
    }
    for name, differs in differing.items():
        if differs:
            raise UserError(
                f"{folder / RUN_NAME} was made with another {name} than the settings name; "
                "run the train stage (dvc repro train)"
            )
    return run


def provenance_of(config: Config, runs: list[RunRecord], reported: list[str]) -> Provenance:
    """What a result of runs comes from; `reported` are the splits of the reported clips."""
    indexes = {split: open_index(config, split) for split in SPLITS}
    rows = [row for run in runs for row in roles_in_training(run, config)]
    return Provenance(
        dataset=config.dataset.name,
        data=read_summary(config.manifests),
        clips={split: describe_clips(index) for split, index in indexes.items()},
        quarantined=quarantined_clips(indexes),
        roles=summarize_roles(rows, config.dataset.classes),
        reported=reported,
        folds=config.folds,
        runs=runs,
    )
