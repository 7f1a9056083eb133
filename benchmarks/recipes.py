"""What each recipe costs: parameters, FLOPs per clip, memory at its batch size, time of a training on VGAF.

example:
  .venv/bin/python benchmarks/recipes.py paper strong
writes:
  Prints a table, and the same as JSON.

Everything is calculated on tensors without values, so it needs neither weights nor data nor a GPU. A multiplication and
an addition are two FLOPs.

Memory is that of weights, gradients, Adam's two moments and the moving average in fp32, plus the activations that a
step's forward pass stores for the gradient, at the recipe's precision. If a recipe recomputes activations, the largest
share of them that is recomputed at once comes on top.

Time is that of three forward passes per training clip, or four with recomputed activations, on VGAF's training clips
without the tenth that is held out, at a sustained rate that you give. It covers nothing but the arithmetic of the
networks, and training does not stop early.
"""

import argparse
import json
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from pipeline.clips.labels import CLASSES
from pipeline.common.recipe import Features, Recipe, load_recipe, recipe_names
from pipeline.loading.batch import Batch
from pipeline.models.model import GroupEmotionModel

VGAF_TRAIN_CLIPS = 2661
BYTES_PER_VALUE = 4  # fp32


@dataclass(frozen=True)
class Cost:
    """What a recipe costs; `gflops` is per clip."""

    parameters: int
    gflops: float
    batch_size: int
    memory_gb: float
    minutes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", metavar="recipe", nargs="*", default=recipe_names(), help="default: all recipes")
    parser.add_argument(
        "--tflops", type=float, default=100.0, help="sustained rate (100, a tenth of an H100's peak in bf16)"
    )
    arguments = parser.parse_args()
    costs = {name: cost_of_recipe(load_recipe(name), arguments.tflops) for name in arguments.recipes}
    print("| recipe | parameters | GFLOPs per clip | memory at batch size | training on VGAF |\n|---|---|---|---|---|")
    for name, cost in costs.items():
        print(
            f"| `{name}` | {cost.parameters / 1e6:.1f} M | {cost.gflops:.1f} | "
            f"{cost.memory_gb:.1f} GB at {cost.batch_size} | {cost.minutes:.1f} min |"
        )
    print(json.dumps({name: asdict(cost) for name, cost in costs.items()}))


def cost_of_recipe(recipe: Recipe, tflops: float) -> Cost:
    """What a recipe costs at a sustained rate."""
    settings = recipe.training
    with torch.device("meta"):
        model = GroupEmotionModel(recipe.model, recipe.features, CLASSES).train()
        clip = empty_clips(model.inputs, 1)
    with FlopCounterMode(display=False) as counter:
        model(clip)
    gflops = counter.get_total_flops() / 1e9
    parameters = sum(parameter.numel() for parameter in model.parameters())
    copies = 5 if settings.ema_decay else 4  # weights, gradients, two moments, moving average
    memory = parameters * BYTES_PER_VALUE * copies + activation_bytes(recipe)
    clips = settings.epochs * VGAF_TRAIN_CLIPS * (1.0 if settings.select_on == "none" else 0.9)
    passes = 4 if recipe.model.gradient_checkpointing else 3
    return Cost(
        parameters=parameters,
        gflops=round(gflops, 2),
        batch_size=settings.batch_size,
        memory_gb=round(memory / 1e9, 2),
        minutes=round(clips * passes * gflops / (tflops * 1e3) / 60, 1),
    )


def empty_clips(features: Features, count: int) -> Batch:
    """A batch of clips of full length, for its shapes."""
    size = features.frame_size_px
    return Batch(
        clip_ids=["1_1"] * count,
        frames=torch.zeros(count, features.frames, 3, size, size),
        frame_times_s=torch.zeros(count, features.frames),
        has_video=torch.ones(count, dtype=torch.bool),
        log_mel=torch.zeros(count, features.mel_bins, features.max_mel_frames),
        mel_frames=torch.ones(count, dtype=torch.int64),
        labels=torch.zeros(count, dtype=torch.int64),
    )


def activation_bytes(recipe: Recipe) -> float:
    """Bytes of the activations that a step's forward pass stores, plus those that are recomputed at once."""
    model = GroupEmotionModel(recipe.model, recipe.features, CLASSES).train()
    stored = stored_bytes_per_step(model, recipe)
    if not recipe.model.gradient_checkpointing:
        return stored
    settings = recipe.model.model_copy(update={"gradient_checkpointing": False})
    without_recomputing = GroupEmotionModel(settings, recipe.features, CLASSES).train()
    layers = sum(len(network.layers()) for network in model.backbones().values())
    return stored + (stored_bytes_per_step(without_recomputing, recipe) - stored) / layers


def stored_bytes_per_step(model: GroupEmotionModel, recipe: Recipe) -> int:
    """Bytes that the forward pass of a micro-batch stores for the gradient.

    It follows from one clip and from two, because what all clips share, such as weights in lower precision, does not
    grow with the batch.
    """
    settings = recipe.training
    one, two = (stored_bytes(model, recipe, clips) for clips in (1, 2))
    return one + (settings.batch_size // settings.micro_batches - 1) * (two - one)


def stored_bytes(model: GroupEmotionModel, recipe: Recipe, clips: int) -> int:
    """Bytes that a forward pass stores for the gradient; memory that several tensors share counts once."""
    has_low_precision = recipe.training.mixed_precision != "no"
    stored: dict[int, Tensor] = {}

    def store(tensor: Tensor) -> Tensor:
        stored[tensor.untyped_storage()._cdata] = tensor  # kept alive, so that no other tensor gets the same address
        return tensor

    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autocast("cpu", torch.bfloat16, enabled=has_low_precision),
        torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor),
    ):
        logits = model(empty_clips(model.inputs, clips))
    size = sum(tensor.untyped_storage().nbytes() for tensor in stored.values())
    del logits  # only now: it holds the stored tensors
    return size


if __name__ == "__main__":
    main()
