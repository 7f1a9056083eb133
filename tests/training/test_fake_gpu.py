"""The training step of each recipe on a GPU that is not there: PyTorch checks all devices, types and shapes.

Tensors have no content, so nothing is computed. The backward pass would ask the driver for a stream, so gradients are
filled in.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recipes import put_on_device
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.common.recipe import load_recipe, recipe_names
from pipeline.loading import draws
from pipeline.loading.augmentation import augment
from pipeline.loading.batch import Batch
from pipeline.loading.draws import Draws
from pipeline.loading.people import People
from pipeline.models.model import GroupEmotionModel
from pipeline.training.objective import Objective
from pipeline.training.optimization import build_optimizer, clip_gradients, moving_average
from pipeline.training.setup import to_channels_last
from pipeline.training.state import optimizer_tensors, weights_of

GPU = torch.device("cuda")
CLASSES = ("positive", "neutral", "negative")
CLIPS = 4
AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def empty_batch(recipe):
    """A batch on the GPU, as the loader gives it."""
    features, frames = recipe.features, recipe.model.frames
    size, bins, crop = features.frame_size_px, features.mel_bins, features.people.size_px
    places = (CLIPS, frames, features.people.most)
    people = People(
        crops=torch.empty((*places, 3, crop, crop), dtype=torch.uint8, device=GPU),
        boxes=torch.empty((*places, 4), device=GPU),
        present=torch.empty(places, dtype=torch.bool, device=GPU),
    )
    return Batch(
        clip_ids=["a"] * CLIPS,
        frames=torch.empty((CLIPS, frames, 3, size, size), dtype=torch.uint8, device=GPU),
        frame_times_s=torch.empty((CLIPS, frames), device=GPU),
        has_video=torch.empty(CLIPS, dtype=torch.bool, device=GPU),
        log_mel=torch.empty((CLIPS, bins, features.max_mel_frames), dtype=torch.float16, device=GPU),
        mel_frames=torch.empty(CLIPS, dtype=torch.int64, device=GPU),
        labels=torch.empty(CLIPS, dtype=torch.int64, device=GPU),
        people=people if features.people.most else None,
    )


@pytest.mark.parametrize("precision", [None, "fp16"], ids=["its own precision", "fp16"])
@pytest.mark.parametrize("name", recipe_names())
def test_a_step_puts_everything_on_the_gpu_in_types_that_fit(name, precision, monkeypatch):
    recipe = load_recipe(name)
    precision = AUTOCAST[precision or recipe.training.mixed_precision]
    augmentation = recipe.training.augmentation.model_copy(update={"mixup_alpha": 0.0})  # NumPy draws its numbers
    monkeypatch.setattr(draws, "to_device", lambda tensor, device: tensor.to(device))  # pinning needs the driver
    monkeypatch.setattr(FakeTensorMode, "__deepcopy__", lambda self, memo: self, raising=False)  # of the average
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)  # or autocast is off
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    accelerator = SimpleNamespace(device=GPU, unscale_gradients=lambda: None)
    with torch.device("meta"):
        model = GroupEmotionModel(recipe.model, recipe.features, CLASSES)
        objective = Objective(model, recipe.training, torch.ones(3)).train()
    with FakeTensorMode():
        put_on_device(objective, GPU)
        if recipe.training.channels_last:
            to_channels_last(model)
        average, optimizer = moving_average(model, recipe.training), build_optimizer(objective, recipe.training)
        drawn = Draws(torch.Generator().manual_seed(0), CLIPS, np.arange(CLIPS), GPU)
        batch = augment(empty_batch(recipe), augmentation, recipe.features, len(CLASSES), drawn)
        with torch.autocast("cuda", precision, enabled=precision is not None):
            assert torch.is_autocast_enabled("cuda") == (precision is not None)
            loss = objective(batch)
        assert {loss.total.dtype, loss.fused.dtype, loss.streams.dtype} == {torch.float32}
        for parameter in objective.parameters():
            parameter.grad = torch.empty_like(parameter)
        norm, norms = clip_gradients(objective, recipe.training.clip_norm, accelerator)
        optimizer.step()
        if average:
            average.update_parameters(model)
        used = [
            loss.total,
            loss.streams,
            norm,
            norms,
            *objective.state_dict().values(),
            *batch.to(GPU).__dict__.values(),
        ]
        assert {value.device.type for value in used if isinstance(value, torch.Tensor)} == {"cuda"}
        assert all(group["fused"] for group in optimizer.param_groups)
        saved = [*weights_of(model).values(), *optimizer_tensors(optimizer, objective).values()]
        assert {value.device.type for value in saved} == {"cpu"}
