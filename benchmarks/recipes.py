"""What each recipe costs: parameters, FLOPs a clip, memory at its batch size, time of a training on VGAF.

`.venv/bin/python benchmarks/recipes.py [recipe ...]` prints a table and JSON. Calculated without weights or data, on
PyTorch's meta device: a multiplication and an addition are two FLOPs. Memory: weights, gradients, Adam's two moments
and the moving average in fp32, and what a step's forward pass keeps for the gradient (half of its fp32 size in bf16).
Time: three forward passes a training clip (four where blocks are recomputed) on VGAF's train clips but the tenth that
is held out, at a sustained rate that you give; nothing but the networks' arithmetic, no early stop.
"""

import argparse
import json
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import Recipe, load_recipe, recipe_names
from pipeline.loader import Batch
from pipeline.model import GroupEmotionModel

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
        batch = one_clip(recipe)
        with FlopCounterMode(display=False) as counter:
            model(batch)
        activations = kept_for_the_gradient(model, batch)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    bytes_a_parameter = 4 * (5 if settings.ema_decay else 4)
    share = 1.0 if settings.mixed_precision == "no" else 0.5
    at_once = settings.batch_size // settings.micro_batches
    gflops = counter.get_total_flops() / 1e9
    clips = settings.epochs * VGAF_TRAIN_CLIPS * (1.0 if settings.select_on == "none" else 0.9)
    passes = 4 if recipe.model.gradient_checkpointing else 3
    return {
        "parameters": parameters,
        "gflops": round(gflops, 2),
        "batch_size": settings.batch_size,
        "memory_gb": round((parameters * bytes_a_parameter + at_once * activations * share) / 1e9, 2),
        "minutes": round(clips * passes * gflops / (tflops * 1e3) / 60, 1),
    }


def one_clip(recipe: Recipe) -> Batch:
    """A batch of one clip of full length; on the meta device, shapes alone."""
    features = recipe.features
    return Batch(
        clip_ids=["1_1"],
        frames=torch.zeros(1, features.frames, 3, features.frame_size_px, features.frame_size_px),
        frame_times_s=torch.zeros(1, features.frames),
        has_video=torch.ones(1, dtype=torch.bool),
        log_mel=torch.zeros(1, features.mel_bins, features.max_mel_frames),
        mel_frames=torch.ones(1, dtype=torch.int64),
        labels=torch.zeros(1, dtype=torch.int64),
    )


def kept_for_the_gradient(model: GroupEmotionModel, batch: Batch) -> int:
    """Bytes that a forward pass keeps beside the weights, each tensor's memory once."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:
            kept[storage] = tensor  # held, so that its memory is not taken for another's
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(batch)
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del logits
    return size


if __name__ == "__main__":
    main()
