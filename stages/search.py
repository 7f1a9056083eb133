"""Search for better settings with Optuna, by the accuracy on sources held out of train; val is not looked at.

`python -m stages.search --trials 20`: params.yaml, shards, configs/search.yaml -> runs/search/<dataset>.db (go on: run
it again). Prints the best settings as a line for `dvc exp run`, which then trains and scores them.
"""

import argparse
import hashlib
import json
import math
import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from pipeline.common.config import Config, Settings, load_config, parse_config
from pipeline.common.errors import UserError, exits_with_one_sentence
from pipeline.models.runs import RUN_NAME
from pipeline.training.distributed import start_accelerator
from pipeline.training.loop import load_data, run_training

SPACE = Path("configs/search.yaml")


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.search", description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20, help="how many more (default: 20)")
    arguments = parser.parse_args()
    config, space = load_config(), load_space(SPACE)
    if (split := config.recipe.training.select_on) != "dev":
        raise UserError(f"recipe.training.select_on is {split}; a search needs dev, sources held out of train")
    try:
        import optuna
    except ModuleNotFoundError:
        raise UserError("a search needs Optuna: pip install 'group-emotion[sweeps]'") from None

    for key, of in space.items():  # a wrong name or value is refused before any training
        for value in of if isinstance(of, list) else (of.low, of.high):
            with_settings(config, {key: value})

    load_data(config)  # refuses shards that are not there; a trial would only be pruned

    def objective(trial: Any) -> float:
        try:
            return held_out_accuracy(with_settings(config, {key: draw(trial, key, of) for key, of in space.items()}))
        except UserError as error:  # such as a training that diverged
            raise optuna.TrialPruned(str(error)) from error

    store = Path("runs/search") / f"{config.dataset.name}.db"
    store.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name_of(config, space),
        storage=f"sqlite:///{store}",
        load_if_exists=True,
        direction="maximize",
    )
    # Not the seed alone: a study that goes on would draw the trials again that it has.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    study.optimize(objective, n_trials=arguments.trials)
    if not any(trial.value is not None for trial in study.trials):
        raise UserError("no trial came to an end; the messages above say why")
    settings = {key: value if isinstance(value, str) else json.dumps(value) for key, value in study.best_params.items()}
    best = shlex.join(word for key, value in settings.items() for word in ("-S", f"{key}={value}"))
    print(f"best of {len(study.trials)} trials: {study.best_value:.4f} on dev\ndvc exp run {best}")


class Range(Settings):
    """Numbers from `low` to `high`; log: as many between 1 and 2 as between 2 and 4."""

    low: float
    high: float
    log: bool

    @model_validator(mode="after")
    def _is_one(self) -> "Range":
        if not (0 if self.log else -math.inf) < self.low <= self.high:
            raise ValueError(f"low ({self.low}) must not exceed high ({self.high}), and is above 0 with log")
        return self


# Values to choose from, or a range, for each key of params.yaml.
Space = dict[str, Annotated[list[bool | int | float | str | None], Field(min_length=1)] | Range]
# Trials with other held-out sources, or scored on others, could not be compared.
FIXED = ("recipe.training.select_on", "recipe.training.dev_fraction")


def load_space(path: Path) -> Space:
    """What is varied; raises `UserError` for a file that does not say it, and for what cannot be varied."""
    try:
        space = TypeAdapter(Space).validate_python(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        # What is no list is meant as a range.
        wrong = [each for each in error.errors() if each["type"] != "list_type"] or error.errors()
        said = "; ".join(f"{'.'.join(map(str, each['loc'][:1]))}: {each['msg']}" for each in wrong[:2])
        raise UserError(f"{path} is not a space to search ({said})") from None
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())[:200]})") from None
    for key in space:
        if not key.startswith("recipe.") or key in FIXED:
            raise UserError(f"{path}: {key} cannot be searched; expected a key of recipe other than {', '.join(FIXED)}")
    return space


def name_of(config: Config, space: Space) -> str:
    """The study's: trials of another space, or with other settings around it, are another study's."""
    fixed = config.recipe.model_dump_json() + str(config.seed) + str(space)
    return f"{config.recipe.name}-{hashlib.sha256(fixed.encode()).hexdigest()[:12]}"


def draw(trial: Any, key: str, of: list[Any] | Range) -> Any:
    """A value of a setting, as the trial wants it."""
    return trial.suggest_categorical(key, of) if isinstance(of, list) else trial.suggest_float(key, **of.model_dump())


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """The settings with others for some keys, checked again."""
    values = config.model_dump()
    for key, value in settings.items():
        *groups, name = key.split(".")
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})  # a wrong name is refused as an unknown key
            if not isinstance(inner, dict):
                raise UserError(f"{SPACE}: {key} is no setting, for {group} is a value")
        inner[name] = value
    return parse_config(values, str(SPACE))


def held_out_accuracy(config: Config) -> float:
    """Train and say how well the chosen epoch does on the held-out sources."""
    with tempfile.TemporaryDirectory() as folder:
        run_training(config, start_accelerator(config), Path(folder, "run"), Path(folder, "checkpoints"))
        return float(json.loads(Path(folder, "run", RUN_NAME).read_text())["selection_accuracy"])


if __name__ == "__main__":
    main()
