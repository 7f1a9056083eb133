"""A model as a folder of its own: weights, settings, card, and the whole network as ONNX, checked against PyTorch.

`GroupEmotionModel.from_pretrained` and `stages.predict --run` take the folder; `model.onnx` needs neither this project
nor PyTorch.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import Features
from pipeline.errors import UserError
from pipeline.labels import CLASSES
from pipeline.loader import Batch
from pipeline.model import GroupEmotionModel
from pipeline.model_card import STATEMENTS
from pipeline.results import METRICS_NAME, PROVENANCE_NAME
from pipeline.runs import RUN_NAME, open_run

ONNX_NAME, CARD_NAME = "model.onnx", "README.md"
TEMPLATE = Path(__file__).with_name("model_card.md.j2")
TOLERANCE = 1e-4  # of logits
INPUTS = ("frames", "frame_times_s", "has_video", "log_mel", "mel_frames")


def export_run(run_folder: Path, results: Path, folder: Path) -> float:
    """Write the model folder of a finished run; the largest difference of a logit between ONNX and PyTorch.

    The card has the figures in `results` if they are of this run. Raises `UserError` where ONNX differs by more than
    `TOLERANCE`.
    """
    config, record, model = open_run(run_folder)
    recipe = config.recipe
    settings = {"settings": recipe.model.model_dump(), "features": recipe.features.model_dump(), "labels": CLASSES}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD_NAME).write_text(card(record, figures_of(record, results), recipe.features))
    model.save_pretrained(folder, config=settings)
    shutil.copyfile(run_folder / RUN_NAME, folder / RUN_NAME)
    write_onnx(model, folder / ONNX_NAME)
    return check_onnx(model, folder / ONNX_NAME)
