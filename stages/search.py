"""Search for better settings with Optuna, by the accuracy on sources held out of train; val is not looked at.

`python -m stages.search --trials 20`: params.yaml, shards, configs/search.yaml -> runs/search/<dataset>.db (go on: run
it again). Prints the best settings as a line for `dvc exp run`, which then trains and scores them.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Config, load_config, parse_config
from pipeline.distributed import start_accelerator
from pipeline.errors import UserError, exits_with_one_sentence
from pipeline.training import RUN_NAME, run_training

SPACE = Path("configs/search.yaml")


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.search", description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20, help="how many more (default: 20)")
    arguments = parser.parse_args()
    config, space = load_config(), yaml.safe_load(SPACE.read_text())
    if (split := config.recipe.training.select_on) != "dev":
        raise UserError(f"recipe.training.select_on is {split}; a search needs dev, sources held out of train")
    try:
        import optuna
    except ModuleNotFoundError:
        raise UserError("a search needs Optuna: pip install 'group-emotion[sweeps]'") from None

    store = Path("runs/search") / f"{config.dataset.name}.db"
    store.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=config.recipe.name,
        storage=f"sqlite:///{store}",
        load_if_exists=True,
        direction="maximize",
    )
    # Not the seed alone: a study that goes on would draw the trials again that it has.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    study.optimize(
        lambda trial: held_out_accuracy(config, {key: draw(trial, key, of) for key, of in space.items()}),
        n_trials=arguments.trials,
    )
    best = " ".join(f"-S {key}={value}" for key, value in study.best_params.items())
    print(f"best of {len(study.trials)} trials: {study.best_value:.4f} on dev\ndvc exp run {best}")


def draw(trial: Any, key: str, of: Any) -> Any:
    """A value of a setting, as the trial wants it."""
    return trial.suggest_categorical(key, of) if isinstance(of, list) else trial.suggest_float(key, **of)


def held_out_accuracy(config: Config, settings: dict[str, Any]) -> float:
    """Train with other settings and say how well the chosen epoch does on the held-out sources."""
    values = config.model_dump()
    for key, value in settings.items():
        *groups, name = key.split(".")
        inner = values
        for group in groups:
            inner = inner[group]
        inner[name] = value
    changed = parse_config(values, str(SPACE))
    with tempfile.TemporaryDirectory() as folder:
        run_training(changed, start_accelerator(changed), Path(folder, "run"), Path(folder, "checkpoints"))
        return float(json.loads(Path(folder, "run", RUN_NAME).read_text())["selection_accuracy"])


if __name__ == "__main__":
    main()
