"""The settings of a recipe: what is taken from a clip, what the model is made of, how it is trained."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, model_validator

from pipeline.common.augmentation_settings import AugmentationSettings
from pipeline.common.errors import UserError
from pipeline.common.people_settings import PeopleSettings
from pipeline.common.schema import Count, Fraction, Name, Positive, Settings, parse_settings

Number = TypeVar("Number", bound=Any)


class Features(Settings):
    """What is taken from a clip. Part of every shard's fingerprint."""

    frames: Count = Field(description="frames that are stored of a clip, at evenly spaced times")
    frame_size_px: Annotated[int, Field(ge=16, multiple_of=2)] = Field(description="frames are squares of this side")
    framing: Literal["full_frame", "center_crop"] = Field(
        description="full_frame: the whole picture, scaled to the square; center_crop: its largest central square"
    )
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    front_end: Literal["librosa", "kaldi"] = Field(
        description="librosa: Slaney mels in dB; kaldi: the filter banks that AudioSet-pretrained transformers expect"
    )
    sample_rate_hz: Count
    fft_size: Count = Field(description="samples; kaldi uses the next power of two of window_length instead")
    window_length: Count = Field(description="samples")
    hop_length: Count = Field(description="samples")
    mel_bins: Count
    # As it is written, 5 or 5.0: it is a part of the name of a folder, which DVC makes from params.yaml.
    max_duration_s: Annotated[int | float, Field(gt=0)] = Field(
        description="longer clips are quarantined; shorter log-mels are padded to it"
    )
    require_video: bool = Field(description="false: a file with sound and without a video stream is a clip too")
    people: PeopleSettings

    @model_validator(mode="after")
    def _window_fits_the_fft(self) -> "Features":
        if self.window_length > self.fft_size:
            raise ValueError(f"window_length ({self.window_length}) must not exceed fft_size ({self.fft_size})")
        return self

    def mel_frames(self, samples: int) -> int:
        """Length, in hops, of the log-mel of a waveform: librosa centres its windows, kaldi keeps them inside."""
        if self.front_end == "librosa":
            return 1 + samples // self.hop_length
        return max(0, 1 + (samples - self.window_length) // self.hop_length)

    def hop_time_s(self, hop: Number) -> Number:
        """Time of the middle of a hop's window, in seconds from the clip's start; `hop` is a number or an array."""
        offset = 0.0 if self.front_end == "librosa" else self.window_length / 2
        return (hop * self.hop_length + offset) / self.sample_rate_hz

    @property
    def folder(self) -> str:
        """The name of the folder of the shards with these features: pictures, then sound. dvc.yaml makes the same."""
        pictures = f"{self.frames}x{self.frame_size_px}px-{self.framing}-q{self.jpeg_quality}"
        sound = f"{self.front_end}-{self.sample_rate_hz}-{self.fft_size}-{self.window_length}-{self.hop_length}"
        video = str(self.require_video).lower()
        return f"{pictures}_{sound}-{self.mel_bins}-{self.max_duration_s}s_video-{video}_{self.people.folder}"

    @property
    def max_mel_frames(self) -> int:
        """Length, in hops, to which a batch pads every log-mel: that of a clip of `max_duration_s`."""
        return self.mel_frames(round(self.max_duration_s * self.sample_rate_hz))


class StreamSettings(Settings):
    """What a stream takes of a clip, its network (`pipeline.models.backbone`), its weights (`models.weights`)."""

    input: Literal["frames", "people", "log_mel"] = Field(
        description="what the network takes of a clip: whole frames, the crops of faces in them, or the sound"
    )
    network: str = Field(description="small; a network of torchvision.models.video, for frames; or a network of timm")
    weights: str = Field(
        description="none: random; pretrained: the published ones; package:NAME/PATH: a file of the installed package "
        "NAME, by the end of its path; or the path of a local file"
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        description="SHA-256 that the file must have; null: any"
    )
    min_matched: Annotated[float, Field(gt=0, le=1)] = Field(
        description="smallest share of the network's tensors that the file must fill"
    )
    grid: Count = Field(
        description="parts into which each side of a picture, or the mel axis, is cut, with one token for each part; "
        "1: one token for each moment"
    )

    @model_validator(mode="after")
    def _sha256_needs_a_file(self) -> "StreamSettings":
        if self.weights == "none" and self.sha256 is not None:
            raise ValueError("weights is none, so no file can have this sha256; set sha256: null")
        return self


FusionKind = Literal["cross_attention", "self_attention", "concat", "late"]
# A name of a stream is a part of the names of tensors, in which a dot divides the parts.
StreamName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class ModelSettings(Settings):
    """The network (`pipeline.models.model`)."""

    streams: dict[StreamName, StreamSettings] = Field(description="the streams that the model can have, by name")
    use: Annotated[list[StreamName], Field(min_length=1)] = Field(
        description="names of the streams that it has, in this order; with one of them there is nothing to fuse"
    )
    frames: Count = Field(
        description="frames of a clip that the network takes, of those that are stored (`pipeline.loading.sampling`)"
    )
    views: Count = Field(
        description="views of a clip whose class probabilities are averaged in evaluation: other frames, and every "
        "second one mirrored; 1: the middle frames alone"
    )
    freeze_backbones: bool = Field(description="true: backbones stay as they were loaded, the rest is trained")
    gradient_checkpointing: bool = Field(
        description="true: recompute the backbones' activations in the backward pass instead of storing them"
    )
    norm_clips: Annotated[int, Field(ge=0)] = Field(
        description="BatchNorm's statistics in training are those of groups of this many clips, whatever the number of "
        "processes; 0: they stay as they were loaded, as is usual for pretrained networks"
    )
    fusion: FusionKind = Field(description="how the streams meet (`pipeline.models.fusion`)")
    width: Annotated[int, Field(ge=8, multiple_of=8)] = Field(description="width of the tokens in the fusion")
    heads: Count
    layers: Count = Field(description="attention blocks of the fusion, one after the other")
    pooling: Literal["mean", "learned"] = Field(description="of a stream's tokens; learned: a weighted mean")
    dropout: Fraction
    stochastic_depth: Fraction = Field(description="probability that a clip skips a branch of an attention block")

    @property
    def used(self) -> dict[str, StreamSettings]:
        """The streams that the model has, by name, in the order of `use`."""
        return {name: self.streams[name] for name in self.use}

    def inputs(self, features: Features) -> Features:
        """The features of a clip as the networks take it: of the stored frames, only as many as they use."""
        return features.model_copy(update={"frames": self.frames})

    @model_validator(mode="after")
    def _used_streams_are_there_once(self) -> "ModelSettings":
        if unknown := [name for name in self.use if name not in self.streams]:
            raise ValueError(f"use names {', '.join(unknown)}, but the streams are {', '.join(self.streams)}")
        if len(set(self.use)) < len(self.use):
            raise ValueError(f"use names a stream twice: {', '.join(self.use)}")
        return self

    @model_validator(mode="after")
    def _frozen_backbones_have_weights(self) -> "ModelSettings":
        if self.freeze_backbones and any(stream.weights == "none" for stream in self.used.values()):
            raise ValueError("freeze_backbones is true and weights is none: random networks would never learn")
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelSettings":
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self


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
        description="true: the decay rises from 0.1 to ema_decay, so that the first steps do not weigh on the average"
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        description="the training ends after this many epochs in a row without a better one; 0: it never ends early"
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = Field(description="fp16 needs a GPU")
    channels_last: bool = Field(description="convolutions use the channels-last memory layout")
    compile: bool = Field(description="torch.compile: minutes at the start, faster steps on a GPU")
    deterministic: bool = Field(
        description="on a GPU. true: the same bits each time, and full fp32; false: the fastest algorithms, and TF32"
    )
    select_on: Literal["dev", "val", "none"] = Field(
        description="split that chooses the epoch. dev: sources held out of train; val: the reported split itself; "
        "none: the last epoch is taken; with fit_on train_and_dev, all of train is then trained on"
    )
    dev_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(description="share of the train sources held out as dev")
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

    def augmentation_after(self, share: float) -> AugmentationSettings:
        """The augmentation of a step before which `share` of the training is done, in 0..1.

        Only streams that the model has are dropped, and none if it has a single one.
        """
        settings, use = self.training.augmentation.after(share), self.model.use
        return settings.model_copy(update={"drop": {name: settings.drop[name] for name in use} if len(use) > 1 else {}})


def load_recipe(name: str, folder: Path = Path("configs/recipe")) -> Recipe:
    """Read one of the recipes in `folder`; raises `UserError` for a name that is not among them."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"there is no recipe {name}; expected one of {', '.join(recipe_names(folder))}")
    return parse_settings(Recipe, yaml.safe_load(path.read_text()), str(path))


def recipe_names(folder: Path = Path("configs/recipe")) -> list[str]:
    """Names of the recipes in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))
