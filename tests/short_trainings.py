"""Short trainings in the drawn workspace, for the tests of training."""

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from pipeline.common.config import Config, RunId
from pipeline.models.run_record import HISTORY_NAME, LAST_MODEL_NAME, MODEL_NAME
from pipeline.results.evaluation import Evaluation, evaluate_seed
from pipeline.training import loop
from pipeline.training.loop import train_model


class Killed(BaseException):
    """As sudden as SIGKILL: nothing below the test catches it."""


def with_training(config: Config, **settings: object) -> Config:
    """The same settings with others of recipe.training."""
    training = config.recipe.training.model_copy(update=settings)
    return config.model_copy(update={"recipe": config.recipe.model_copy(update={"training": training})})


def with_model(config: Config, **settings: object) -> Config:
    """The same settings with others of recipe.model."""
    values = config.recipe.model.model_dump() | settings
    model = type(config.recipe.model).model_validate(values)
    return config.model_copy(update={"recipe": config.recipe.model_copy(update={"model": model})})


def with_backbones(config: Config, **settings: object) -> Config:
    """The same settings with others of all backbones."""
    for name in config.recipe.model.streams:
        config = with_stream(config, name, **settings)
    return config


def with_stream(config: Config, name: str, **settings: object) -> Config:
    """The same settings with others of one stream."""
    streams = config.recipe.model.model_dump()["streams"]
    return with_model(config, streams=streams | {name: streams[name] | settings})


def with_all_checkpoints(config: Config) -> Config:
    """The same settings with a checkpoint after every step."""
    return config.model_copy(update={"execution": config.execution.model_copy(update={"checkpoint_minutes": 0})})


def train(config: Config, folder: Path, resume: str = "exact") -> dict[str, Tensor]:
    """Train in `folder`; returns the chosen weights, and the last ones as `last.<name>`."""
    train_model(config, RunId(config.seeds[0]), Accelerator(cpu=True), folder / "run", folder / "checkpoints", resume)
    last = load_file(folder / "run" / LAST_MODEL_NAME)
    return load_file(folder / "run" / MODEL_NAME) | {f"last.{name}": value for name, value in last.items()}


def train_and_evaluate(config: Config, seed: int = 0) -> Evaluation:
    """Train all runs of a seed where the settings say, in the current folder; returns the evaluation of the seed."""
    for run in config.run_ids(seed):
        train_model(config, run, Accelerator(cpu=True), config.runs / run.folder, config.checkpoints / run.folder)
    return evaluate_seed(config, seed, Accelerator(cpu=True))


def history(folder: Path) -> list[dict[str, str]]:
    """A run's history without what depends on a clock."""
    with (folder / "run" / HISTORY_NAME).open() as file:
        rows = list(csv.DictReader(file))
    return [{key: row[key] for key in row if key not in ("seconds", "clips_per_s", "data_wait_share")} for row in rows]


def losses(folder: Path) -> list[float]:
    """The measures of all epochs, in training and on the selection clips."""
    names = ("train_loss", "selection_accuracy", "selection_log_loss")
    return [float(row[name]) for row in history(folder) for name in names]


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    """Call `act` when a step begins, the first time."""
    original = loop.learning_rate
    calls = []

    def learning_rate(now: int, *rest: object) -> float:
        if now == step and not calls:
            calls.append(now)
            act()
        return original(now, *rest)

    monkeypatch.setattr(loop, "learning_rate", learning_rate)


def kill() -> None:
    raise Killed


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def count_calls(function: Callable, calls: list) -> Callable:
    """The function, which notes each call."""

    def counted(*arguments: object) -> object:
        calls.append(arguments)
        return function(*arguments)

    return counted
