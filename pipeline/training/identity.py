"""What the weights of a training follow from, by name: two trainings with the same identity give the same weights."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator
from pydantic import JsonValue

from pipeline.common.config import Config, RunId
from pipeline.common.provenance import code_digest
from pipeline.loading.selection import TrainingClips
from pipeline.models.run_record import Identity, InitialWeights, LoadedWeights

# The libraries that decide the weights, given the shards.
LIBRARIES = ("torch", "torchvision", "timm", "accelerate", "numpy", "scipy", "simplejpeg")


def training_identity(
    config: Config,
    run: RunId,
    clips: TrainingClips,
    pretrained: Mapping[str, LoadedWeights],
    initial: InitialWeights | None,
    accelerator: Accelerator,
) -> Identity:
    """The identity of a training: settings, data, weights at its start, processes, device, code, libraries."""
    return {
        **flatten({"recipe": config.recipe.model_dump(), "seed": run.seed}),
        "dataset": config.dataset.name,
        "classes": config.dataset.classes,
        **clips.digests,
        **{f"the pretrained weights of {name}": weights.sha256 for name, weights in pretrained.items()},
        "the weights of init": initial.weights.sha256 if initial else None,
        "number of processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "code": code_digest(["pipeline.training.loop"]),
        **{library: version(library) for library in LIBRARIES},
        # Another number of threads adds numbers in another order.
        "threads": torch.get_num_threads() if accelerator.device.type == "cpu" else None,
    }


def training_fingerprint(identity: Identity) -> str:
    """SHA-256 of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, JsonValue]:
    """Nested settings as one level with dotted keys."""
    flat: dict[str, JsonValue] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def differences(before: Identity, now: Identity) -> list[str]:
    """What differs between two identities, as `name: before -> now`."""
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    return [f"{key}: {_shortened(before.get(key))} -> {_shortened(now.get(key))}" for key in changed]


def _shortened(value: JsonValue) -> str:
    text = str(value)
    return text if len(text) < 40 else f"{text[:12]}..."
