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

from pipeline.clips.labels import CLASSES
from pipeline.common.config import Features
from pipeline.common.errors import UserError
from pipeline.extraction.log_mel import LEVELS
from pipeline.loading.loader import Batch
from pipeline.models.model import GroupEmotionModel
from pipeline.models.runs import MODEL_NAME, RUN_NAME, open_run
from pipeline.results.model_card import STATEMENTS
from pipeline.results.tables import METRICS_NAME, PROVENANCE_NAME

ONNX_NAME, CARD_NAME = "model.onnx", "README.md"
TEMPLATE = Path(__file__).with_name("model_card.md.j2")
TOLERANCE = 1e-4  # of logits
INPUTS = ("frames", "frame_times_s", "has_video", "log_mel", "mel_frames")


def export_run(run_folder: Path, results: Path, folder: Path) -> float:
    """Write the model folder of a finished run; the largest difference of a logit between ONNX and PyTorch.

    The card has the figures in `results` if they are of this run. Raises `UserError` where ONNX differs by more than
    `TOLERANCE`, and for a folder that cannot be written to.
    """
    if folder.resolve() == run_folder.resolve() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is the run itself or a file; name another folder to export to")
    config, record, model = open_run(run_folder)
    features = config.recipe.features
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ONNX_NAME, CARD_NAME):  # of an earlier export; the card comes last and vouches for the rest
        (folder / name).unlink(missing_ok=True)
    write_onnx(model, folder / ONNX_NAME)
    difference = check_onnx(model, folder / ONNX_NAME)
    settings = {"settings": config.recipe.model.model_dump(), "features": features.model_dump(), "labels": CLASSES}
    model.save_pretrained(folder, config=settings)
    shutil.copyfile(run_folder / RUN_NAME, folder / RUN_NAME)
    shutil.copymode(folder / RUN_NAME, folder / MODEL_NAME)  # safetensors' own would be for the owner alone
    (folder / CARD_NAME).write_text(card(record, figures_of(record, results), features))
    return difference


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
        import onnxruntime  # noqa: F401 - what it is checked with
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
        dynamic_shapes={name: {0: torch.export.Dim("clips", min=1)} for name in INPUTS},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    exported = onnx.load(path)
    graph = exported.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]  # where in this machine's folders each operation was called
    metadata = {"labels": json.dumps(CLASSES), "features": model.features.model_dump_json()}
    onnx.helper.set_model_props(exported, metadata)
    path.write_bytes(exported.SerializeToString(deterministic=True))


def random_clips(features: Features, count: int) -> tuple[Tensor, ...]:
    """Inputs of the network: of any three clips one has no video; the first two have no sound, later ones ever more."""
    generator, size = torch.Generator().manual_seed(count), features.frame_size_px
    longest, level = features.max_mel_frames, LEVELS[features.front_end]
    hops = (torch.arange(count) - 1).clamp(min=0) * longest // max(1, count - 2)
    log_mel = level.mean + level.deviation * torch.randn(count, features.mel_bins, longest, generator=generator)
    is_padding = torch.arange(longest) >= hops[:, None, None]
    return (
        torch.randint(0, 256, (count, features.frames, 3, size, size), dtype=torch.uint8, generator=generator),
        torch.rand(count, features.frames, generator=generator).cumsum(dim=1),
        torch.arange(count) % 3 != 0,
        log_mel.masked_fill(is_padding, level.silence).half(),
        hops,
    )


def check_onnx(model: GroupEmotionModel, path: Path) -> float:
    """The largest difference of a logit between the exported network and PyTorch, for five clips and each of them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    clips = random_clips(model.features, 5)
    differences = []
    for part in (slice(None), *(slice(i, i + 1) for i in range(5))):
        with torch.no_grad():
            expected = Logits(model)(*(values[part] for values in clips)).numpy()
        arrays = {name: values[part].numpy() for name, values in zip(INPUTS, clips, strict=True)}
        differences.append(np.abs(session.run(None, arrays)[0] - expected).max())
    worst = float(np.max(differences))
    if not worst <= TOLERANCE:  # so that NaN does not pass
        path.unlink()
        raise UserError(f"as ONNX the model differs from PyTorch by {worst:.1e}, more than {TOLERANCE}: not exported")
    return worst
