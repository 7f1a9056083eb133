"""The settings of an experiment, read from params.yaml and checked against one schema.

DVC composes `params.yaml` from `configs/` (Hydra groups `dataset` and `recipe`). The modules of `pipeline/common/`
declare every key, with its unit. An unknown key, a missing key or a value of another type is refused with one sentence.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from pipeline.common.errors import UserError
from pipeline.common.recipe import Recipe
from pipeline.common.schema import Count, Fraction, Name, Positive, Seed, Settings, parse_settings

PARAMS = Path("params.yaml")
# The folder of the result of the current experiment, and the folder in it that holds the results of each seed.
RESULTS, SEEDS_NAME = Path("results"), "seeds"
# Tables of results, predictions and embeddings have columns of these names beside one for each class.
RESERVED_NAMES = {
    *("", "clip_id", "source_id", "label", "prediction", "seed", "fold", "quarantined"),
    *("file", "start_s", "end_s", "reason", "detail", "id", "embedding"),
}


class DemoSettings(Settings):
    """A drawn data set in VGAF's layout (`pipeline.clips.demo_set`)."""

    seed: Seed
    train_clips: Count = Field(description="a multiple of 9, so that every pair of valences is equally frequent")
    val_clips: Count = Field(description="a multiple of 9")
    clips_per_source: Count
    frame_height_px: Annotated[int, Field(ge=96, multiple_of=2)]


class DatasetSettings(Settings):
    """Where the clips are, and what they are labelled with."""

    name: Name = Field(description="names the folders of the manifests, the shards and the runs")
    root: str = Field(
        description="folder with Train/, Val/ and the label files, which may be a symbolic link; with `table`, the "
        "table or the folder of its clips. DVC indexes again when it changes"
    )
    table: str | None = Field(
        description="CSV file with the columns path, label and source (`pipeline.clips.table`); null: VGAF's layout"
    )
    classes: list[str] = Field(
        description="names of the classes in the order of the model's outputs; a label is a name, or its place from 1"
    )
    allow_identical: bool = Field(
        description="false: refuse a data set in which train and val hold the same recording; true: warn"
    )
    synthesize: dict[str, DemoSettings] = Field(description="sets to draw into `root` first; empty for a recorded set")

    @property
    def clips_folder(self) -> Path:
        """The folder that the clips' paths are relative to: that of the table, or `root`."""
        return Path(self.root) if self.table is None else Path(self.table).parent

    @model_validator(mode="after")
    def _classes_are_names_of_columns(self) -> "DatasetSettings":
        names = [name.strip() for name in self.classes]
        if len(set(names)) != len(names) or names != self.classes or not RESERVED_NAMES.isdisjoint(names):
            raise ValueError(
                f"classes are {self.classes}; expected different names without blanks at their ends, none of them "
                f"empty or {', '.join(sorted(RESERVED_NAMES - {''}))}"
            )
        return self


class ExtractSettings(Settings):
    """How extraction runs, and the limits that no clip may exceed."""

    clips_per_shard: Count
    max_failed_fraction: Fraction = Field(description="a larger share of quarantined clips fails the stage")
    max_pixels: Count = Field(description="width x height of the largest picture that is decoded")
    timeout_s: Positive = Field(description="seconds after which the process that reads a clip is killed")
    memory_mb: Count = Field(description="MiB that a process may allocate to read a clip, beyond what it starts with")
    decoder: Literal["in_process", "ffmpeg"] = Field(
        description="in_process: H.264 through PyAV, decoding only what the sampled frames need; ffmpeg: everything"
    )
    face_detector: str = Field(
        description="file of the face detector, which stages.fetch_weights fetches; ~ is the user's home"
    )
    executor: Literal["local", "dask"] = Field(
        description="local: one process per core; dask: the cluster behind `scheduler`"
    )
    scheduler: str | None = Field(description="address of Dask's scheduler, tcp://host:port; null with `local`")

    @model_validator(mode="after")
    def _dask_has_a_scheduler(self) -> "ExtractSettings":
        if (self.executor == "dask") != (self.scheduler is not None):
            raise ValueError(
                f"executor is {self.executor} and scheduler is {self.scheduler}; "
                "set a scheduler with dask, and null with local"
            )
        return self


class ExecutionSettings(Settings):
    """How training and evaluation run. Results do not depend on it, as long as `shards_url` has the same shards."""

    decode_threads: Count = Field(description="threads per process that read and decode clips")
    shards_url: str | None = Field(
        description="http(s):// or s3:// folder of finished shards to train on; null: what the extract stage wrote"
    )
    cache: str = Field(description="folder for the shards that are fetched from `shards_url`")
    pretrained: str = Field(description="folder for published weights that are fetched; ~ is the user's home")
    checkpoint_minutes: Annotated[float, Field(ge=0)] = Field(
        description="minutes between checkpoints, 0: after each step; the end of an epoch always has one"
    )
    trackers: list[Literal["tensorboard", "dvclive", "mlflow", "wandb"]] = Field(
        description="where the curves are sent during training, besides history.csv"
    )
    process_timeout_s: Annotated[float, Field(gt=0, le=1e9)] = Field(
        description="a process that is silent for longer ends the whole training"
    )

    @model_validator(mode="after")
    def _shards_url_has_a_known_protocol(self) -> "ExecutionSettings":
        if self.shards_url is not None and not self.shards_url.startswith(("http://", "https://", "s3://")):
            raise ValueError(f"shards_url is {self.shards_url}; expected null, http://..., https://... or s3://...")
        return self


FitOn = Literal["train", "train_and_dev", "train_and_val"]


@dataclass(frozen=True)
class RunId:
    """One training of an experiment: its seed and, in cross-validation, the number of its fold, counted from 1."""

    seed: int
    fold: int | None = None

    def __str__(self) -> str:
        return f"seed {self.seed}" if self.fold is None else f"seed {self.seed}, fold {self.fold}"

    @property
    def folder(self) -> Path:
        """The folder of the run among those of its recipe."""
        seed = Path(f"seed-{self.seed}")
        return seed if self.fold is None else seed / f"fold-{self.fold}"


class Config(Settings):
    """Everything that params.yaml holds."""

    dataset: DatasetSettings
    recipe: Recipe
    extract: ExtractSettings
    execution: ExecutionSettings
    launch: Name = Field(description="Accelerate's settings: configs/accelerate/<launch>.yaml")
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        description="one training for each of them; the result is that of all of them together"
    )
    folds: Annotated[int, Field(ge=2)] | None = Field(
        description="cross-validation over sources: each clip is predicted by the run of its fold, which is not fitted "
        "on it; null: none"
    )
    split_seed: Seed = Field(description="draws the folds and dev; the same for all seeds")
    fit_on: FitOn = Field(
        description="clips that the weights are fitted on. train: the train split without dev; "
        "train_and_dev: all of the train split; train_and_val: all labelled clips, which only folds can report"
    )

    @model_validator(mode="after")
    def _seeds_differ(self) -> "Config":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}; name each seed once")
        return self

    @model_validator(mode="after")
    def _the_epoch_is_chosen_on_clips_held_out(self) -> "Config":
        chosen_on = self.recipe.training.select_on
        if (chosen_on == "dev" and self.fit_on != "train") or (chosen_on == "val" and self.fit_on == "train_and_val"):
            raise ValueError(
                f"fit_on is {self.fit_on}, so no clip of {chosen_on} is held out to choose the epoch on; "
                "set recipe.training.select_on=none, and recipe.training.patience=0"
            )
        if chosen_on == "val" and self.folds:
            raise ValueError("folds leave no val to choose the epoch on; set recipe.training.select_on to dev or none")
        return self

    @property
    def root(self) -> Path:
        """Folder of the clips and label files."""
        return Path(self.dataset.root)

    @property
    def manifests(self) -> Path:
        """Folder that `index` and `split` write."""
        return Path("data_manifests") / self.dataset.name

    @property
    def shards(self) -> Path:
        """Folder that `extract` writes, with one folder per split."""
        return Path("data/shards") / self.dataset.name / self.recipe.features.folder

    @property
    def cache(self) -> Path:
        """Folder of the shards fetched from `execution.shards_url`, with one folder per split."""
        return Path(self.execution.cache) / self.dataset.name / self.recipe.features.folder

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of unfinished trainings, each in the folder of its `RunId`."""
        return Path("checkpoints") / self.dataset.name / self.recipe.name

    @property
    def runs(self) -> Path:
        """Folder of the runs that `train` writes, each in the folder of its `RunId`."""
        return Path("runs") / self.dataset.name / self.recipe.name

    @property
    def results(self) -> Path:
        """Folder of the results of the current experiment: `evaluate`, `summarize` and `report` write it."""
        return RESULTS

    def results_of(self, seed: int) -> Path:
        """Folder of the results of one seed."""
        return self.results / SEEDS_NAME / str(seed)

    @property
    def fold_numbers(self) -> Sequence[int | None]:
        """The folds, or None alone without folds."""
        return range(1, self.folds + 1) if self.folds else [None]

    def run_ids(self, seed: int) -> list[RunId]:
        """The trainings that a seed takes: one, or one for each fold."""
        return [RunId(seed, fold) for fold in self.fold_numbers]

    def of_dataset(self, name: str) -> "Config":
        """The settings with the manifests and shards of another data set; its classes stay as they are.

        `execution.shards_url` has the shards of this data set, so it does not hold for another one.
        """
        if name == self.dataset.name:
            return self
        dataset = self.dataset.model_copy(update={"name": name})
        execution = self.execution.model_copy(update={"shards_url": None})
        return self.model_copy(update={"dataset": dataset, "execution": execution})

    def of_run(self, run: RunId) -> "Config":
        """The settings as they concern one run: the other seeds are left out."""
        return self.model_copy(update={"seeds": [run.seed]})


def load_config(path: Path = PARAMS, changes: Mapping[str, Any] | None = None) -> Config:
    """Read and check the settings of a file, with some of them changed: `{"recipe.training.epochs": 3}`.

    Raises `UserError` with one sentence about the first thing that is wrong.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"settings file {path} is missing; run from the root of the repository (this is {Path.cwd()}), "
            "or name another file with --params"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not changes:
        return parse_config(values, str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path} holds {str(values)[:40]!r}, expected settings by name")
    return parse_config(with_changes(values, changes), f"{path} with {', '.join(changes)} set")


def parse_config(values: Any, source: str) -> Config:
    """Check settings that are already parsed; `source` names their origin in error messages."""
    return parse_settings(Config, values, source)


def with_changes(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested settings with other values for some dotted keys.

    The schema refuses an unknown key later. Raises `UserError` for a key inside a setting that holds no keys.
    """
    changed = copy.deepcopy(values)
    for key, value in changes.items():
        *groups, name = key.split(".")
        inner = changed
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise UserError(f"{key} is not a setting, because {group} is a value")
        inner[name] = value
    return changed
