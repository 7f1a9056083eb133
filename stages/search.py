"""Search for better settings with Optuna, by the accuracy on sources held out of train; val is not looked at.

`python -m stages.search --trials 20`: params.yaml, shards, configs/search.yaml -> runs/search/<dataset>.db (go on: run
it again). Prints the best settings as a line for `dvc exp run`, which then trains and scores them.
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from pipeline.config import Config, Settings, load_config, parse_config
from pipeline.distributed import start_accelerator
from pipeline.errors import UserError, exits_with_one_sentence
from pipeline.runs import RUN_NAME
from pipeline.training import run_training

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

    for end in (0, -1):  # a wrong name or value is refused before any training
        with_settings(config, {key: ends(of)[end] for key, of in space.items()})

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
    best = " ".join(f"-S {key}={value}" for key, value in study.best_params.items())
    print(f"best of {len(study.trials)} trials: {study.best_value:.4f} on dev\ndvc exp run {best}")


class Range(Settings):
    """Numbers from `low` to `high`; log: as many between 1 and 2 as between 2 and 4."""

    low: float
    high: float
    log: bool


def load_space(path: Path) -> dict[str, list[Any] | Range]:
    """What is varied: values to choose from, or a range, for each key of params.yaml."""
    try:
        return TypeAdapter(dict[str, Annotated[list[Any], Field(min_length=1)] | Range]).validate_python(
            yaml.safe_load(path.read_text())
        )
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise UserError(f"{path} is not a space to search ({' '.join(str(error).split())[:200]})") from None


def name_of(config: Config, space: dict[str, list[Any] | Range]) -> str:
    """The study's: trials of another space, or with other settings around it, are another study's."""
    fixed = config.recipe.model_dump_json() + str(config.seed) + str(space)
    return f"{config.recipe.name}-{hashlib.sha256(fixed.encode()).hexdigest()[:12]}"


def draw(trial: Any, key: str, of: list[Any] | Range) -> Any:
    """A value of a setting, as the trial wants it."""
    return trial.suggest_categorical(key, of) if isinstance(of, list) else trial.suggest_float(key, **of.model_dump())


def ends(of: list[Any] | Range) -> list[Any]:
    """The first and the last value, or the lowest and the highest."""
    return [of[0], of[-1]] if isinstance(of, list) else [of.low, of.high]


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """The settings with others for some keys, checked again."""
    values = config.model_dump()
    for key, value in settings.items():
        *groups, name = key.split(".")
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})  # a wrong name is refused as an unknown key
        inner[name] = value
    return parse_config(values, str(SPACE))


def held_out_accuracy(config: Config) -> float:
    """Train and say how well the chosen epoch does on the held-out sources."""
    with tempfile.TemporaryDirectory() as folder:
        run_training(config, start_accelerator(config), Path(folder, "run"), Path(folder, "checkpoints"))
        return float(json.loads(Path(folder, "run", RUN_NAME).read_text())["selection_accuracy"])


if __name__ == "__main__":
    main()
