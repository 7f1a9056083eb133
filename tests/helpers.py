"""What several tests need besides fixtures."""

import contextlib
import copy
import dataclasses
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from dvc.utils.hydra import compose_and_dump

from pipeline.clips.indexing import index_dataset
from pipeline.clips.manifest import Clip
from pipeline.common.config import SEEDS_NAME, DatasetSettings, load_config
from pipeline.common.machine import ffmpeg_path
from pipeline.common.model_settings import FusionKind
from pipeline.extraction import splits
from pipeline.models.run_record import LoadedWeights, RunRecord
from pipeline.results.evaluation import Evaluation
from pipeline.results.result_files import Metrics
from pipeline.results.summary import read_seed_result, summarize
from pipeline.results.writing import write_evaluation, write_tables

REPOSITORY = Path(__file__).parent.parent
# Every way to fuse streams, and each stream alone: the settings of recipe.model by which they differ.
FUSIONS = {kind: {"fusion": kind} for kind in get_args(FusionKind)} | {
    name: {"use": [name]} for name in ("scene", "sound")
}


def with_four_streams(values: dict) -> dict:
    """Settings of the demo with two further streams: a second network on the frames, and one on two faces a frame."""
    values = copy.deepcopy(values)
    recipe = values["recipe"]
    recipe["features"]["people"] |= {"most": 2, "size_px": 32}
    scene = recipe["model"]["streams"]["scene"]
    recipe["model"]["streams"] |= {"motion": scene, "people": scene | {"input": "people"}}
    recipe["model"]["use"] = ["scene", "motion", "people", "sound"]
    recipe["training"]["augmentation"]["drop"] = dict.fromkeys(recipe["model"]["use"], 0.1)
    return values


def run_ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([ffmpeg_path(), "-y", "-loglevel", "error", *map(str, arguments)], check=True)


def dataset_at(root: Path, **changes: object) -> DatasetSettings:
    """The demo's data set in another folder, with some settings changed."""
    return load_config(REPOSITORY / "params.yaml").dataset.model_copy(update={"root": str(root), **changes})


def clips_of(root: Path, split: str) -> list[Clip]:
    """The clips of a split of a data set in VGAF's layout."""
    return index_dataset(dataset_at(root))[0][split]


def composed(folder: Path, *overrides: str) -> dict:
    """The settings that `dvc exp run -S` with these overrides would write to params.yaml."""
    compose_and_dump(folder / "params.yaml", str(REPOSITORY / "configs"), None, "config", "", list(overrides))
    return yaml.safe_load((folder / "params.yaml").read_text())


def in_folders(record: RunRecord, folder: Path) -> RunRecord:
    """The record of the same run, had its clips and its pretrained weights been in a folder with an absolute path."""
    settings = record.config.dataset.model_copy(update={"root": str(folder / "clips")})
    weights = LoadedWeights(str(folder / "pretrained.pth"), "ab12", ["a"], {}, [], [])
    config = record.config.model_copy(update={"dataset": settings})
    return dataclasses.replace(record, config=config, pretrained={"scene": weights})


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing to a file beyond `size` bytes fails, in the same way as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def extraction_in_this_process() -> Iterator[None]:
    """Do shard tasks in this process: starting a pool of processes takes longer than the work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "run_on_this_machine", lambda extract, tasks, workers, preload: map(extract, tasks))
        yield


def write_whole_result(results: Path, *evaluations: Evaluation, **changes: object) -> Metrics:
    """Write the result of some seeds as `evaluate` and `summarize` do, with some of the metrics changed."""
    by_seed = {}
    for evaluation in evaluations:
        folder = results / SEEDS_NAME / str(evaluation.seed)
        write_evaluation(evaluation, folder)
        by_seed[evaluation.seed] = read_seed_result(folder, evaluation.seed)
    metrics, classes = summarize(by_seed)
    metrics = dataclasses.replace(metrics, **changes)
    write_tables({seed: result.predictions for seed, result in by_seed.items()}, metrics, classes, results)
    return metrics
