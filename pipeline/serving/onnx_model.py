"""A model as ONNX: the whole network in one file, for any number of clips, checked against PyTorch."""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.common.errors import UserError, missing_extra
from pipeline.common.features import Features
from pipeline.loading.batch import Batch
from pipeline.loading.people import People
from pipeline.models.model import GroupEmotionModel
from pipeline.shards.log_mel_units import LEVELS

TOLERANCE = 1e-4  # of logits
INPUTS = ("frames", "frame_times_s", "has_video", "log_mel", "mel_frames")
PEOPLE_INPUTS = ("people_crops", "people_boxes", "people_present")  # of a model whose features have people
CHECKED_CLIPS = 5


class TensorModel(nn.Module):
    """A model in evaluation mode that takes tensors instead of a batch."""

    def __init__(self, model: GroupEmotionModel) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(
        self,
        frames: Tensor,
        frame_times_s: Tensor,
        has_video: Tensor,
        log_mel: Tensor,
        mel_frames: Tensor,
        people_crops: Tensor | None = None,
        people_boxes: Tensor | None = None,
        people_present: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, classes)."""
        people, no_labels = None, torch.empty(0, dtype=torch.long)
        if people_crops is not None and people_boxes is not None and people_present is not None:
            people = People(people_crops, people_boxes, people_present)
        return self.model(Batch([], frames, frame_times_s, has_video, log_mel, mel_frames, no_labels, people))


def write_onnx(model: GroupEmotionModel, path: Path) -> None:
    """Write the network for batches of any size. It takes one view of a clip.

    Its metadata holds the labels, the settings of the features, and which of the frames the network takes.

    Raises `UserError` if a package that this needs is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401 - the check needs it
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "export") from None

    clips = random_clips(model.inputs, 2)
    with warnings.catch_warnings():  # about PyTorch's own code, and that the inputs share the number of clips
        warnings.filterwarnings("ignore", r".*isinstance\(treespec", FutureWarning)
        warnings.filterwarnings("ignore", "# The axis name: clips", UserWarning)
        torch.onnx.export(
            TensorModel(model),
            tuple(clips.values()),
            path,
            input_names=list(clips),
            output_names=["logits"],
            dynamic_shapes={name: {0: torch.export.Dim("clips", min=1)} for name in clips},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    exported = onnx.load(path)
    graph = exported.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]  # they name folders of this machine, from which each operation was called
    metadata = {
        "labels": json.dumps(model.labels),
        "features": model.features.model_dump_json(),
        "frames": json.dumps(model.sampling.of_view(0).tolist()),
    }
    onnx.helper.set_model_props(exported, metadata)
    path.write_bytes(exported.SerializeToString(deterministic=True))


def check_onnx(model: GroupEmotionModel, path: Path) -> float:
    """The largest difference of a logit between the exported network and PyTorch, for five clips together and singly.

    Raises `UserError`, and removes the file, if the difference exceeds `TOLERANCE`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    network, clips = TensorModel(model), random_clips(model.inputs, CHECKED_CLIPS)
    differences = []
    for part in (slice(None), *(slice(i, i + 1) for i in range(CHECKED_CLIPS))):
        with torch.no_grad():
            expected = network(*(values[part] for values in clips.values())).numpy()
        arrays = {name: values[part].numpy() for name, values in clips.items()}
        differences.append(np.abs(session.run(None, arrays)[0] - expected).max())
    largest = float(np.max(differences))
    if not largest <= TOLERANCE:  # so that NaN is refused, too
        path.unlink()
        raise UserError(
            f"as ONNX, the model differs from PyTorch by {largest:.1e}, more than {TOLERANCE}: "
            f"{path.name} was removed; use the run with PyTorch, as stages.predict does"
        )
    return largest


def random_clips(features: Features, count: int) -> dict[str, Tensor]:
    """Random inputs of the network for `count` clips, by the names of `INPUTS`, and of `PEOPLE_INPUTS` if it has them.

    Every third clip has no video. The first two have no sound; each later one has more sound than the one before. About
    half of the places for faces are empty.
    """
    generator, size = torch.Generator().manual_seed(count), features.frame_size_px
    longest, level = features.max_mel_frames, LEVELS[features.front_end]
    hops = (torch.arange(count) - 1).clamp(min=0) * longest // max(1, count - 2)
    log_mel = level.mean + level.deviation * torch.randn(count, features.mel_bins, longest, generator=generator)
    is_padding = torch.arange(longest) >= hops[:, None, None]
    values = (
        torch.randint(0, 256, (count, features.frames, 3, size, size), dtype=torch.uint8, generator=generator),
        torch.rand(count, features.frames, generator=generator).cumsum(dim=1),
        torch.arange(count) % 3 != 0,
        log_mel.masked_fill(is_padding, level.silence).half(),
        hops,
    )
    clips, most, size = dict(zip(INPUTS, values, strict=True)), features.people.most, features.people.size_px
    if not most:
        return clips
    places = (count, features.frames, most)
    people = (
        torch.randint(0, 256, (*places, 3, size, size), dtype=torch.uint8, generator=generator),
        torch.rand(*places, 4, generator=generator),
        torch.rand(places, generator=generator) < 0.5,
    )
    return clips | dict(zip(PEOPLE_INPUTS, people, strict=True))
