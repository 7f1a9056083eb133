"""What each recipe costs: parameters, FLOPs per clip, memory at its batch size, time of a training on VGAF.

example:
  .venv/bin/python benchmarks/recipes.py paper strong
writes:
  Prints a table, and the same as JSON.

Everything is calculated on tensors without values, so it needs neither weights nor data nor a GPU. A multiplication and
an addition are two FLOPs.

Memory is the peak of a simulated step: weights, gradients, Adam's two moments, the moving average, and what is alive at
any one moment of the forward and the backward pass, at the recipe's precision. Kernels and the allocator need more: add
a fifth.

Time is that of three forward passes per training clip, or four with recomputed activations, on VGAF's training clips
without the tenth that is held out, at a sustained rate that you give. It covers nothing but the arithmetic of the
networks, and training does not stop early.
"""

import argparse
import json
import weakref
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.clips.labels import CLASSES
from pipeline.common.features import Features
from pipeline.common.recipe import Recipe, load_recipe, recipe_names
from pipeline.loading.batch import Batch
from pipeline.loading.people import People
from pipeline.models.model import GroupEmotionModel
from pipeline.training.objective import Objective

VGAF_TRAIN_CLIPS = 2661


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
    clips = settings.epochs * VGAF_TRAIN_CLIPS * (1.0 if settings.select_on == "none" else 0.9)
    passes = 4 if recipe.model.gradient_checkpointing else 3
    return Cost(
        parameters=parameters,
        gflops=round(gflops, 2),
        batch_size=settings.batch_size,
        memory_gb=round(peak_bytes(recipe) / 1e9, 2),
        minutes=round(clips * passes * gflops / (tflops * 1e3) / 60, 1),
    )


def empty_clips(features: Features, count: int) -> Batch:
    """A batch of clips of full length, for its shapes."""
    size, places = features.frame_size_px, (count, features.frames, features.people.most)
    crop_size = features.people.size_px
    people = People(
        torch.zeros(*places, 3, crop_size, crop_size), torch.zeros(*places, 4), torch.ones(places, dtype=torch.bool)
    )
    return Batch(
        clip_ids=["1_1"] * count,
        frames=torch.zeros(count, features.frames, 3, size, size),
        frame_times_s=torch.zeros(count, features.frames),
        has_video=torch.ones(count, dtype=torch.bool),
        log_mel=torch.zeros(count, features.mel_bins, features.max_mel_frames),
        mel_frames=torch.ones(count, dtype=torch.int64),
        labels=torch.zeros(count, dtype=torch.int64),
        people=people if features.people.most else None,
    )


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch has no types here
    """Counts the bytes of all tensors that are alive, and keeps the highest number. Works with fake tensors too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak_bytes = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        """Do an operation, and count the memory of its results."""
        results = operation(*arguments, **(options or {}))
        for each in tree_leaves(results):
            if isinstance(each, Tensor):
                self._count(each.untyped_storage())
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def free(_: object) -> None:
            del self._alive[key]
            self.bytes -= size

        self._alive[key] = weakref.ref(storage, free)
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)


def peak_bytes(recipe: Recipe) -> int:
    """The most memory that a step takes, from its first micro-batch to its last gradient.

    The step is simulated: PyTorch follows all operations, forwards and backwards, with tensors that have no content.
    What kernels need for themselves, and what the allocator keeps in reserve, is not in it.
    """
    settings = recipe.training
    with torch.device("meta"):
        model = GroupEmotionModel(recipe.model, recipe.features, CLASSES)
        objective = Objective(model, settings, torch.ones(len(CLASSES))).train()
    copies = 3 if settings.ema_decay else 2  # two moments of AdamW, and the moving average
    with FakeTensorMode(), LiveMemory() as memory:
        put_on_device(objective, torch.device("cpu"))
        kept = [torch.empty_like(weight) for weight in objective.parameters() for _ in range(copies)]
        for _ in range(settings.micro_batches):
            batch = empty_clips(model.inputs, settings.batch_size // settings.micro_batches)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.mixed_precision != "no"):
                loss = objective(batch).total
            loss.backward()
            del loss
        del kept  # it must exist during the whole step
    return memory.peak_bytes


def put_on_device(network: nn.Module, device: torch.device) -> None:
    """Replace all parameters and buffers of a network by uninitialised ones on a device."""
    for module in network.modules():
        for name, value in module._parameters.items():
            if value is not None:
                empty = torch.empty(value.shape, dtype=value.dtype, device=device)
                module._parameters[name] = nn.Parameter(empty, value.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)


if __name__ == "__main__":
    main()
