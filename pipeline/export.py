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
from pipeline.features import LEVELS
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


def figures_of(record: dict[str, Any], results: Path) -> dict[str, Any] | None:
    """The measures in a folder of results, if they are of the run with that record."""
    try:
        of_run = json.loads((results / PROVENANCE_NAME).read_text())["run"]
        metrics: dict[str, Any] = json.loads((results / METRICS_NAME).read_text())
    except FileNotFoundError:
        return None
    return metrics if of_run == record else None


def card(record: dict[str, Any], metrics: dict[str, Any] | None, features: Features) -> str:
    """The model card, as Markdown."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE.read_text()).render(
        run=record, metrics=metrics, features=features, labels=CLASSES, statements=STATEMENTS
    )


class Logits(nn.Module):
    """The model with tensors in the place of a batch."""

    def __init__(self, model: GroupEmotionModel) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(
        self, frames: Tensor, frame_times_s: Tensor, has_video: Tensor, log_mel: Tensor, mel_frames: Tensor
    ) -> Tensor:
        """Logits (B, classes)."""
        no_labels = torch.empty(0, dtype=torch.long)
        return self.model(Batch([], frames, frame_times_s, has_video, log_mel, mel_frames, no_labels))


def write_onnx(model: GroupEmotionModel, path: Path) -> None:
    """Write the network with any number of clips a batch; the labels and feature settings are in its metadata."""
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install 'group-emotion[export]'") from None

    network = Logits(model).eval()
    torch.onnx.export(
        network,
        random_clips(model.features, 2),
        path,
        input_names=list(INPUTS),
        output_names=["logits"],
        dynamic_shapes={name: {0: torch.export.Dim.DYNAMIC} for name in INPUTS},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    exported = onnx.load(path)
    metadata = {"labels": json.dumps(CLASSES), "features": model.features.model_dump_json()}
    onnx.helper.set_model_props(exported, metadata)
    onnx.save(exported, path)


def random_clips(features: Features, count: int) -> tuple[Tensor, ...]:
    """Inputs of the network for so many clips: of all lengths, the first without sound and the last without video."""
    generator, size = torch.Generator().manual_seed(count), features.frame_size_px
    hops, level = features.max_mel_frames, LEVELS[features.front_end]
    return (
        torch.randint(0, 256, (count, features.frames, 3, size, size), dtype=torch.uint8, generator=generator),
        torch.rand(count, features.frames, generator=generator).cumsum(dim=1),
        torch.arange(count) < max(1, count - 1),
        (level.mean + level.deviation * torch.randn(count, features.mel_bins, hops, generator=generator)).half(),
        torch.arange(count) * hops // max(1, count - 1),
    )


def check_onnx(model: GroupEmotionModel, path: Path) -> float:
    """The largest difference of a logit between the exported network and PyTorch, in batches of one, two and five."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    used = {given.name for given in session.get_inputs()}  # a network of one modality has not those of the other
    worst = 0.0
    for count in (1, 2, 5):
        clips = random_clips(model.features, count)
        with torch.no_grad():
            expected = Logits(model)(*clips).numpy()
        arrays = {name: value.numpy() for name, value in zip(INPUTS, clips, strict=True) if name in used}
        worst = max(worst, float(np.abs(session.run(None, arrays)[0] - expected).max()))
    if not worst <= TOLERANCE:
        raise UserError(f"{path} differs from PyTorch by {worst:.1e}, more than {TOLERANCE}: do not use it")
    return worst
