"""A search for better settings with Optuna, by the accuracy on sources held out of train; val is never used."""

import hashlib
import json
import math
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from pipeline.common.accelerator import start_accelerator
from pipeline.common.config import Config, RunId, parse_config, with_changes
from pipeline.common.errors import Stopped, UserError, missing_extra
from pipeline.common.schema import Settings
from pipeline.loading.selection import select_clips
from pipeline.models.run_record import read_run_record
from pipeline.training.loop import train_model

if TYPE_CHECKING:
    import optuna

SPACE = Path("configs/search.yaml")
STUDIES = Path("runs/search")
# Trials with other held-out sources, or scored on other clips, could not be compared. The precision is that of a
# process, which all trials share.
FIXED = ("recipe.training.select_on", "recipe.training.dev_fraction", "recipe.training.mixed_precision")


class Range(Settings):
    """Real numbers from `low` to `high`; list whole numbers instead.

    With `log`, there are as many trials between 1 and 2 as between 2 and 4.
    """

    low: float
    high: float
    log: bool

    @model_validator(mode="after")
    def _is_not_empty(self) -> "Range":
        if not (0 if self.log else -math.inf) < self.low <= self.high:
            raise ValueError(f"low ({self.low}) must not exceed high ({self.high}), and must be above 0 with log")
        return self


Choices = Annotated[list[bool | int | float | str | None], Field(min_length=1)]
# Key of params.yaml -> the values to choose from, or a range.
Space = dict[str, Choices | Range]


def load_space(path: Path = SPACE) -> Space:
    """Read which settings vary; raises `UserError` for a file that does not say so, or a key that must not vary."""
    try:
        space = TypeAdapter(Space).validate_python(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        # Whatever is not a list is meant as a range, so the errors about lists are left out.
        errors = [each for each in error.errors() if each["type"] != "list_type"] or error.errors()
        reasons = "; ".join(f"{'.'.join(map(str, each['loc'][:1]))}: {each['msg']}" for each in errors[:2])
        raise UserError(f"{path} does not describe a search space ({reasons})") from None
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())[:200]})") from None
    for key in space:
        if not key.startswith("recipe.") or key in FIXED:
            raise UserError(f"{path}: {key} cannot be searched; expected a key of recipe other than {', '.join(FIXED)}")
    return space


def search(config: Config, space: Space, trials: int) -> str:
    """Run more trials of a study, and describe the best one with the options of `dvc exp run` for its settings.

    Raises `UserError` before the first trial for settings, values or shards that cannot be used.
    """
    if (split := config.recipe.training.select_on) != "dev":
        raise UserError(f"recipe.training.select_on is {split}; a search needs dev, sources held out of train")
    if config.folds is not None:
        raise UserError(
            f"folds is {config.folds}, but a search compares trials on sources held out of one training; set folds to "
            "null and run the split stage"
        )
    check_space(config, space)
    clips = select_clips(config)  # refuses missing shards; otherwise every trial would be pruned
    study = open_study(config, space, clips.digests)
    study.optimize(lambda trial: _objective(trial, config, space), n_trials=trials)
    if not any(trial.value is not None for trial in study.trials):
        raise UserError("no trial was finished; the messages above say why")
    return (
        f"best of {len(study.trials)} trials: {study.best_value:.4f} on dev. To train and score its settings, add "
        f"these options to the dvc exp run command of the experiment:\n{options_for(study.best_params)}"
    )


def check_space(config: Config, space: Space) -> None:
    """Raise `UserError` for a key or a value that the settings do not allow."""
    for key, allowed in space.items():
        for value in allowed if isinstance(allowed, list) else (allowed.low, allowed.high):
            with_settings(config, {key: value})


def open_study(config: Config, space: Space, digests: Mapping[str, str]) -> "optuna.Study":
    """The study of these settings, this space and the clips with these digests; it continues if it exists."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise missing_extra("Optuna", "sweeps") from None
    store = STUDIES / f"{config.dataset.name}.db"
    store.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=study_name(config, space, digests),
        storage=f"sqlite:///{store}",
        load_if_exists=True,
        direction="maximize",
    )
    # The number of trials is part of the seed: a study that continues must not draw its earlier trials again.
    study.sampler = optuna.samplers.TPESampler(seed=config.seeds[0] + len(study.trials))
    return study


def study_name(config: Config, space: Space, digests: Mapping[str, str]) -> str:
    """The name of a study. Another space, other settings around it, or other clips make another study."""
    others = (config.dataset.classes, config.seeds[0], space, sorted(digests.items()))
    fixed = f"{config.recipe.model_dump_json()} {others}"
    return f"{config.recipe.name}-{hashlib.sha256(fixed.encode()).hexdigest()[:12]}"


def _objective(trial: "optuna.Trial", config: Config, space: Space) -> float:
    import optuna

    try:
        drawn = {key: draw_value(trial, key, allowed) for key, allowed in space.items()}
        return held_out_accuracy(with_settings(config, drawn))
    except UserError as error:  # such as a training that diverged: other settings may still work
        raise optuna.TrialPruned(str(error)) from error


def draw_value(trial: "optuna.Trial", key: str, allowed: Choices | Range) -> Any:
    """A value of a setting, drawn by the trial."""
    if isinstance(allowed, list):
        return trial.suggest_categorical(key, allowed)
    return trial.suggest_float(key, allowed.low, allowed.high, log=allowed.log)


def with_settings(config: Config, changes: Mapping[str, Any]) -> Config:
    """The settings with other values for some keys, checked again."""
    return parse_config(with_changes(config.model_dump(), changes), str(SPACE))


def held_out_accuracy(config: Config) -> float:
    """Train, and return the accuracy of the chosen epoch on the held-out sources."""
    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder, "run")
        run = RunId(config.seeds[0])
        try:
            train_model(config, run, start_accelerator(config), run_folder, Path(folder, "checkpoints"))
        except Stopped:
            raise Stopped("the search; finished trials are kept, and the one that ran is lost") from None
        accuracy = read_run_record(run_folder).selection_accuracy
    assert accuracy is not None, "with select_on dev, every epoch is scored"
    return accuracy


def options_for(settings: Mapping[str, Any]) -> str:
    """The options of `dvc exp run` for these settings.

    They are not the whole command: those of the experiment, such as `-S dataset=vgaf`, belong before them.
    """
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    words = [word for key, value in texts.items() for word in ("-S", f"{key}={value}")]
    return shlex.join(words)
