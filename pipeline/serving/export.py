"""A model as a folder of its own: weights, settings, model card, run record, and the network as ONNX.

`GroupEmotionModel.from_pretrained` and `stages.predict --run` take the folder. `model.onnx` needs neither this project
nor PyTorch.
"""

import contextlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.common.config import RESULTS, SEEDS_NAME
from pipeline.common.errors import UserError
from pipeline.common.features import Features
from pipeline.common.files import write_text
from pipeline.common.model_settings import ModelSettings
from pipeline.common.records import to_json, write_record
from pipeline.models.later_settings import EXTRACT
from pipeline.models.run_record import HISTORY_NAME, MODEL_NAME, RUN_NAME, RunRecord, without_folders
from pipeline.models.runs import open_run
from pipeline.results.model_card import CardResult, render_card
from pipeline.results.result_files import (
    read_metrics,
    read_provenance,
)
from pipeline.serving.onnx_model import check_onnx, write_onnx

ONNX_NAME, CARD_NAME, CONFIG_NAME = "model.onnx", "README.md", "config.json"
EXPORTED_NAMES = (CARD_NAME, CONFIG_NAME, ONNX_NAME, MODEL_NAME, RUN_NAME)


@dataclass(frozen=True)
class ExportedConfig:
    """What `config.json` holds: the arguments of `GroupEmotionModel`, and the classes in the order of its outputs."""

    settings: ModelSettings
    features: Features
    labels: list[str]


def export_run(run_folder: Path, results: Path | None, folder: Path) -> float:
    """Write the exported folder of a finished run; returns the largest difference of a logit between ONNX and PyTorch.

    The folder names no other folder of this machine (`given_away`). The card states the accuracy in `results`,
    or without one that in `results/` if it is of this run. Raises `UserError` if `results` holds none of this run, if
    ONNX differs from PyTorch by more than `onnx_model.TOLERANCE`, if a package that this needs is not installed, and
    for a folder that is a file or a run, or that holds files of the same names which are no export's.
    """
    check_folder(folder, run_folder)
    run = open_run(run_folder)
    result = result_of(run.record, RESULTS) if results is None else named_result(run.record, run_folder, results)
    record = given_away(run.record)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ONNX_NAME, CARD_NAME, MODEL_NAME):  # of an earlier export; with the card, an export is whole
        (folder / name).unlink(missing_ok=True)
    write_record(record, folder / RUN_NAME)  # first, because it tells that the other files are an export's
    write_onnx(run.model, folder / ONNX_NAME)
    difference = check_onnx(run.model, folder / ONNX_NAME)
    recipe = record.config.recipe
    config = ExportedConfig(settings=recipe.model, features=recipe.features, labels=list(run.model.labels))
    run.model.save_pretrained(folder, config=json.loads(to_json(config)))
    shutil.copymode(folder / RUN_NAME, folder / MODEL_NAME)  # safetensors makes a file that only its owner can read
    frames = run.model.sampling.of_view(0).tolist()
    write_text(folder / CARD_NAME, render_card(record, result, frames))
    return difference


def check_folder(folder: Path, run_folder: Path) -> None:
    """Raise `UserError` for a folder to export to that is a file or a run, or in which files would be lost."""
    if folder.resolve() == run_folder.resolve() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is the run itself or a file; name another folder to export to")
    if (folder / HISTORY_NAME).exists():
        raise UserError(
            f"{folder} is a run, and an export would overwrite it; name another folder to export to, and the run with "
            "--run"
        )
    if (folder / RUN_NAME).exists():
        return
    for name in EXPORTED_NAMES:
        if (folder / name).exists():
            raise UserError(
                f"{folder} holds a {name} that no export wrote, because it holds no {RUN_NAME}; name another folder, "
                "or move the file away"
            )


def given_away(record: RunRecord) -> RunRecord:
    """The record as it is exported: without the folders of this machine.

    The face detector is looked for in its usual place, to which `stages.fetch_weights` fetches it on any machine.
    """
    extract = record.config.extract.model_copy(update={"face_detector": EXTRACT["face_detector"]})
    return without_folders(replace(record, config=record.config.model_copy(update={"extract": extract})))


def named_result(run: RunRecord, run_folder: Path, results: Path) -> CardResult:
    """The result of a run alone in a folder that the user names; raises `UserError` if it has none."""
    if result := result_of(run, results):
        return result
    raise UserError(
        f"{results} holds no result of {run_folder} alone that this version wrote; name a folder that python -m "
        f"stages.evaluate --run {run_folder} --output wrote, or leave --results out"
    )


def result_of(run: RunRecord, results: Path) -> CardResult | None:
    """The result of a run alone in a folder of all seeds, or in one that `evaluate --run` wrote; None without one."""
    for folder in (results / SEEDS_NAME / str(run.run.seed), results):
        with contextlib.suppress(UserError):  # no result, or one of another version
            provenance = read_provenance(folder)
            # The result may have been made with the run or with an exported folder of it.
            if [given_away(each) for each in provenance.runs] == [given_away(run)]:
                return CardResult(read_metrics(folder, "evaluate"), provenance.dataset, ", ".join(provenance.reported))
    return None
