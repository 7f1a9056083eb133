"""Settings of earlier versions in today's form: a setting that a version lacked gets the value that it worked with."""

import re
from collections.abc import Mapping
from typing import Any

TRAINING: dict[str, Any] = {
    "class_balance": "none",
    "stream_loss": 0.0,
    "freeze_epochs": 0,
    "learning_rate_floor": 0.0,
    "ema_warmup": False,
    "deterministic": False,
}
AUGMENTATION: dict[str, Any] = {
    "max_crop": 1.0,
    "translation": 0.0,
    "rotation_deg": 0.0,
    "erasing": 0.0,
    "tempo": 0.0,
    "noise_db": 0.0,
    "pitch_mel_bins": 0.0,
    "drop_final": 1.0,
    "mixup_alpha": 0.0,
}


EXTRACT: dict[str, Any] = {"face_detector": "~/.cache/group-emotion/weights/face_detection_yunet_2023mar.onnx"}
NO_PEOPLE: dict[str, Any] = {
    "most": 0,
    "size_px": 64,
    "margin": 0.2,
    "aligned": False,
    "smallest_px": 16,
    "confidence": 0.7,
    "longest_side_px": 1280,
}


def features_of_any_version(features: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the features of any version in today's form."""
    return {"people": NO_PEOPLE, **features}


def model_of_any_version(model: Mapping[str, Any], frames: int) -> dict[str, Any]:
    """Settings of a model of any version in today's form; `frames` is the number of frames that are stored of a clip.

    Earlier versions used all of them, had one view of a clip, and BatchNorm over all clips of a process, for which
    `norm_clips` 8 stands. They had the two streams `video` and `audio`; a fusion of such a name used that stream alone.
    """
    values = {"frames": frames, "views": 1, "norm_clips": 8, **model}
    if "streams" in values:
        return values | {"streams": {name: {"frames": None, **stream} for name, stream in values["streams"].items()}}
    inputs, fusion = {"video": "frames", "audio": "log_mel"}, values["fusion"]
    streams = {name: _stream_of_any_version(values.pop(name), inputs[name]) for name in inputs}
    is_alone = fusion in streams
    return values | {
        "streams": streams,
        "use": [fusion] if is_alone else list(streams),
        "fusion": "concat" if is_alone else fusion,
    }


def _stream_of_any_version(backbone: Mapping[str, Any], takes: str) -> dict[str, Any]:
    others = {key: value for key, value in backbone.items() if key != "name"}
    return {"input": takes, "network": backbone["name"], "frames": None, **others}


def augmentation_of_any_version(augmentation: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the augmentation of any version in today's form."""
    values = {**AUGMENTATION, **augmentation}
    if "drop" in values:
        return values
    return values | {"drop": {name: values.pop(f"drop_{name}") for name in ("video", "audio")}}


def tensor_name_of_any_version(name: str) -> str:
    """Today's name of a model's tensor of any version: a block of cross-attention was once named `video_to_audio`."""
    return re.sub(r"\.(video|audio)_to_(?:video|audio)\.", r".blocks.\1.", name)


def config_of_any_version(config: Any) -> Any:
    """The settings of a run of any version in today's form."""
    match config:
        case {
            "recipe": {
                "features": {"frames": int(frames)},
                "model": dict(model),
                "training": {"augmentation": dict(augmentation), **training},
                **others,
            }
        }:
            recipe = {
                "init": "none",
                **others,
                "features": features_of_any_version(config["recipe"]["features"]),
                "model": model_of_any_version(model, frames),
                "training": TRAINING | training | {"augmentation": augmentation_of_any_version(augmentation)},
            }
            return config | {
                "recipe": recipe,
                "extract": EXTRACT | config.get("extract", {}),
                "execution": _execution_of_any_version(config.get("execution")),
            }
    return config


def _execution_of_any_version(execution: Any) -> Any:
    """Earlier versions saved a checkpoint every so many steps."""
    if not isinstance(execution, dict) or "checkpoint_steps" not in execution:
        return execution
    return {"checkpoint_minutes": 10.0} | {key: execution[key] for key in execution if key != "checkpoint_steps"}
