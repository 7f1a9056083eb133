"""The settings of a recipe: what is taken from a clip, what the model is made of, how it is trained."""

import math
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from pipeline.common.augmentation_settings import AugmentationSettings
from pipeline.common.errors import UserError
from pipeline.common.features import Features
from pipeline.common.model_settings import ModelSettings
from pipeline.common.schema import Count, Fraction, Name, Positive, Settings, parse_settings


class RateScales(Settings):
    """Factors of the learning rate of each part of the network."""

    backbones: Positive
    fusion: Positive
    head: Positive


class TrainingSettings(Settings):
    """The optimisation (`pipeline.training`)."""

    epochs: Count
    batch_size: Count = Field(description="clips per optimisation step, over all processes and micro-batches together")
    micro_batches: Count = Field(
        description="parts into which a process splits its clips of a step, one after the other, to save memory"
    )
    shuffle_shards: Count = Field(
        description="number of successive shards whose clips are shuffled together; all shards are shuffled first"
    )
    class_balance: Literal["none", "weights", "draws"] = Field(
        description="weights: the losses are weighted so that all classes weigh the same; draws: all classes are "
        "drawn equally often, so clips of rare classes occur more than once in an epoch"
    )
    stream_loss: Annotated[float, Field(ge=0)] = Field(
        description="weight of the loss of each stream's own head (`pipeline.training.objective`) beside that of the "
        "model; 0: the heads learn, to show what their stream knows, and nothing else learns from them"
    )
    freeze_epochs: Annotated[int, Field(ge=0)] = Field(
        description="the backbones stay as they were loaded for this many epochs, in which the rest learns"
    )
    learning_rate: Positive
    learning_rate_floor: Fraction = Field(description="share of learning_rate to which it falls at the end")
    rate_scales: RateScales
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        description="learning rate of a backbone's layer, as a factor of that of the next layer towards the output"
    )
    weight_decay: Annotated[float, Field(ge=0)]
    warmup: Fraction = Field(description="share of the steps in which the learning rate rises")
    clip_norm: Positive = Field(description="largest norm of the gradient; longer gradients are scaled down to it")
    label_smoothing: Fraction
    ema_decay: Fraction = Field(
        description="decay per step of the moving average of the weights, which is what is scored; 0: no average"
    )
    ema_warmup: bool = Field(
        description="true: the decay rises from 0.18 to ema_decay, so that the first steps do not weigh on the average"
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        description="the training ends after this many epochs in a row without a better one; 0: it never ends early"
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = Field(description="fp16 needs a GPU")
    channels_last: bool = Field(description="convolutions use the channels-last memory layout")
    compile: bool = Field(description="torch.compile: minutes at the start, faster steps on a GPU")
    deterministic: bool = Field(
        description="on a GPU. true: the same bits each time, and full fp32; false: TF32 and faster algorithms"
    )
    select_on: Literal["dev", "val", "none"] = Field(
        description="split that chooses the epoch. dev: sources held out of train; val: the reported split itself; "
        "none: the last epoch is taken; with fit_on train_and_dev, all of train is then trained on"
    )
    dev_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="share of the train clips held out as dev, in whole sources"
    )
    augmentation: AugmentationSettings

    @model_validator(mode="after")
    def _patience_needs_scored_epochs(self) -> "TrainingSettings":
        if self.select_on == "none" and self.patience:
            raise ValueError(
                f"patience ({self.patience}) needs epochs that are scored; with select_on none, set it to 0"
            )
        return self


class Recipe(Settings):
    """What a model is made of and how it is trained."""

    name: Name
    init: str = Field(
        description="none; or the folder of a run, or of an exported model, whose weights the training starts from "
        "(`pipeline.models.initial_weights`), relative to the workspace"
    )
    features: Features
    model: ModelSettings
    training: TrainingSettings

    @model_validator(mode="after")
    def _drop_names_the_streams(self) -> "Recipe":
        names, dropped = list(self.model.streams), list(self.training.augmentation.drop)
        if set(names) != set(dropped):
            raise ValueError(
                f"training.augmentation.drop names {', '.join(dropped) or 'none'}, expected each stream of "
                f"model.streams: {', '.join(names)}"
            )
        return self

    @model_validator(mode="after")
    def _people_are_looked_for(self) -> "Recipe":
        names = [name for name, stream in self.model.used.items() if stream.input == "people"]
        if names and not self.features.people.most:
            raise ValueError(
                f"features.people.most is 0, so no faces are stored, and the stream {names[0]} takes people; raise it, "
                "or leave the stream out of model.use"
            )
        return self

    @model_validator(mode="after")
    def _frames_are_stored(self) -> "Recipe":
        if self.model.frames > self.features.frames:
            raise ValueError(
                f"model.frames ({self.model.frames}) must not exceed features.frames ({self.features.frames}), the "
                "frames that are stored; lower the first, or raise the second and extract again"
            )
        return self

    @model_validator(mode="after")
    def _views_differ(self) -> "Recipe":
        most = 2 * math.ceil(self.features.frames / self.model.frames)
        if self.model.views > most:
            raise ValueError(
                f"model.views ({self.model.views}) must not exceed {most}: model.frames ({self.model.frames}) of "
                f"features.frames ({self.features.frames}) make no further view, so some would be computed twice"
            )
        return self

    @model_validator(mode="after")
    def _random_networks_learn(self) -> "Recipe":
        frozen, epochs = self.training.freeze_epochs, self.training.epochs
        is_random = self.init == "none" and any(stream.weights == "none" for stream in self.model.used.values())
        if is_random and frozen >= epochs:
            raise ValueError(
                f"training.freeze_epochs ({frozen}) must be below training.epochs ({epochs}) where weights is none: "
                "random networks would never learn"
            )
        return self

    @model_validator(mode="after")
    def _sound_outlasts_its_masks(self) -> "Recipe":
        features, augmentation = self.features, self.training.augmentation
        for mask, largest in (("mask_mel_bins", "mel_bins"), ("mask_time_s", "max_duration_s")):
            if getattr(augmentation, mask) > getattr(features, largest):
                raise ValueError(
                    f"training.augmentation.{mask} ({getattr(augmentation, mask)}) must not exceed features.{largest} "
                    f"({getattr(features, largest)}): it would mask whole clips"
                )
        return self

    def augmentation_after(self, share: float) -> AugmentationSettings:
        """The augmentation of a step before which `share` of the training is done, in 0..1.

        Only streams that the model has are dropped, and none if it has a single one.
        """
        settings, use = self.training.augmentation.after(share), self.model.use
        return settings.model_copy(update={"drop": {name: settings.drop[name] for name in use} if len(use) > 1 else {}})


def load_recipe(name: str, folder: Path = Path("configs/recipe")) -> Recipe:
    """Read one of the recipes in `folder`; raises `UserError` for another name, and for a file that is no recipe."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"there is no recipe {name}; expected one of {', '.join(recipe_names(folder))}")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return parse_settings(Recipe, values, str(path))


def recipe_names(folder: Path = Path("configs/recipe")) -> list[str]:
    """Names of the recipes in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))
