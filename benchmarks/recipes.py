"""What each recipe costs: parameters, FLOPs a clip, memory at its batch size, time of a training on VGAF.

`.venv/bin/python benchmarks/recipes.py [recipe ...]` prints a table and JSON. Calculated without weights or data, on
tensors that are shapes alone: a multiplication and an addition are two FLOPs. Memory: weights, gradients, Adam's two
moments and the moving average in fp32, what a step's forward pass keeps for the gradient at the recipe's precision, and
the block that is being computed again, where blocks are. Time: three forward passes a training clip (four where blocks
are recomputed) on VGAF's train clips but the tenth that is held out, at a sustained rate that you give; nothing but the
networks' arithmetic, no early stop.
"""

import argparse
import json
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from pipeline.common.config import Features, Recipe, load_recipe, recipe_names
from pipeline.loading.loader import Batch
from pipeline.models.model import GroupEmotionModel

VGAF_TRAIN_CLIPS = 2661


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=recipe_names())
    parser.add_argument(
        "--tflops", type=float, default=100.0, help="sustained; 100 is a tenth of an H100's peak in bf16"
    )
    arguments = parser.parse_args()
    rows = {name: cost(load_recipe(name), arguments.tflops) for name in arguments.recipes}
    print("| recipe | parameters | GFLOPs a clip | memory at batch | training on VGAF |\n|---|---|---|---|---|")
    for name, row in rows.items():
        print(
            f"| `{name}` | {row['parameters'] / 1e6:.1f} M | {row['gflops']:.1f} | "
            f"{row['memory_gb']:.1f} GB at {row['batch_size']} | {row['minutes']:.1f} min |"
        )
    print(json.dumps(rows))


def cost(recipe: Recipe, tflops: float) -> dict[str, Any]:
    """A recipe's row."""
    settings = recipe.training
    with torch.device("meta"):
        model = GroupEmotionModel(recipe.model, recipe.features).train()
        clip = empty_clips(recipe.features, 1)
    with FlopCounterMode(display=False) as counter:
        model(clip)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    bytes_a_parameter = 4 * (5 if settings.ema_decay else 4)
    gflops = counter.get_total_flops() / 1e9
    clips = settings.epochs * VGAF_TRAIN_CLIPS * (1.0 if settings.select_on == "none" else 0.9)
    passes = 4 if recipe.model.gradient_checkpointing else 3
    return {
        "parameters": parameters,
        "gflops": round(gflops, 2),
        "batch_size": settings.batch_size,
        "memory_gb": round((parameters * bytes_a_parameter + activation_bytes(recipe)) / 1e9, 2),
        "minutes": round(clips * passes * gflops / (tflops * 1e3) / 60, 1),
    }


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
    """What the forward pass of a step keeps, and the largest part of it that is computed again at once."""
    recomputes = recipe.model.gradient_checkpointing
    model = GroupEmotionModel(recipe.model, recipe.features).train()
    kept = kept_for_the_gradient(model, recipe)
    if not recomputes:
        return kept
    everything = GroupEmotionModel(recipe.model.model_copy(update={"gradient_checkpointing": False}), recipe.features)
    blocks = sum(len(network.layers()) for network in model.backbones().values())
    return kept + (kept_for_the_gradient(everything.train(), recipe) - kept) / blocks


def kept_for_the_gradient(model: GroupEmotionModel, recipe: Recipe) -> int:
    """Bytes that the forward pass of a step keeps, each tensor's memory once.

    From one clip and from two: what they share, such as weights in lower precision, does not grow with the batch.
    """
    settings = recipe.training
    one, two = (kept_of(model, recipe, clips) for clips in (1, 2))
    return one + (settings.batch_size // settings.micro_batches - 1) * (two - one)


def kept_of(model: GroupEmotionModel, recipe: Recipe, clips: int) -> int:
    low = recipe.training.mixed_precision != "no"
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # held, so that its memory is not taken for another's
        return tensor

    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.autocast("cpu", torch.bfloat16, enabled=low),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        logits = model(empty_clips(recipe.features, clips))
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del logits
    return size


if __name__ == "__main__":
    main()
