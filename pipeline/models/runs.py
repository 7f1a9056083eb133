"""A finished run's folder: what lies in it, and opening it."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.common.config import Config, parse_config
from pipeline.common.errors import UserError
from pipeline.models.model import GroupEmotionModel

MODEL_NAME, LAST_MODEL_NAME = "model.safetensors", "last.safetensors"
HISTORY_NAME, RUN_NAME = "history.csv", "run.json"


def open_run(folder: Path) -> tuple[Config, dict[str, Any], GroupEmotionModel]:
    """The settings that a run was made with, its record, and its model."""
    path = folder / RUN_NAME
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        weights = load_file(folder / MODEL_NAME)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename or folder / MODEL_NAME} is missing; run the train stage (dvc repro train)"
        ) from None
    except (SafetensorError, ValueError) as error:
        raise UserError(f"the run in {folder} is damaged ({error}); train again") from None
    config = parse_config(record.get("config"), str(path))
    model = GroupEmotionModel(config.recipe.model, config.recipe.features)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"the run in {folder} was made by another version of this code ({said}); train again") from None
    return config, record, model
