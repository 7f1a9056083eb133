"""The settings of a model: its streams and how they meet."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.common.features import Features
from pipeline.common.schema import Count, Fraction, Settings


class StreamSettings(Settings):
    """The input of a stream, its network (`pipeline.models.building`) and its weights (`pipeline.models.weights`)."""

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
    frames: Count | None = Field(
        description="how many of the model's frames the network takes, evenly spaced; null: all; null for log_mel"
    )
    grid: Count = Field(
        description="parts into which each side of a picture, or the mel axis, is cut, with one token for each part; "
        "1: one token for each moment"
    )

    @model_validator(mode="after")
    def _sound_has_no_frames(self) -> "StreamSettings":
        if self.input == "log_mel" and self.frames is not None:
            raise ValueError(f"frames is {self.frames}, but the input is log_mel; set frames: null")
        return self

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
        description="frames of a clip that the model takes, of those that are stored (`pipeline.loading.sampling`)"
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
    pooling: Literal["mean", "learned"] = Field(description="mean of a stream's tokens; learned: a weighted one")
    dropout: Fraction
    stochastic_depth: Fraction = Field(description="probability that a clip skips a branch of an attention block")

    @property
    def used(self) -> dict[str, StreamSettings]:
        """The streams that the model has, by name, in the order of `use`."""
        return {name: self.streams[name] for name in self.use}

    @property
    def taken(self) -> set[str]:
        """What the streams of the model take of a clip: frames, people, log_mel."""
        return {stream.input for stream in self.used.values()}

    @property
    def takes_pictures(self) -> bool:
        """Whether a stream takes frames or faces; without one, all views of a clip are the same."""
        return bool(self.taken & {"frames", "people"})

    def features_to_read(self, features: Features) -> Features:
        """What is read of a clip with these features: without the faces if no stream takes them."""
        if "people" in self.taken:
            return features
        return features.model_copy(update={"people": features.people.model_copy(update={"most": 0})})

    def inputs(self, features: Features) -> Features:
        """The features of a clip as the networks take it: of the frames that are read, only as many as they use."""
        return self.features_to_read(features).model_copy(update={"frames": self.frames})

    @model_validator(mode="after")
    def _used_streams_are_there_once(self) -> "ModelSettings":
        if unknown := [name for name in self.use if name not in self.streams]:
            raise ValueError(f"use names {', '.join(unknown)}, but the streams are {', '.join(self.streams)}")
        if len(set(self.use)) < len(self.use):
            raise ValueError(f"use names a stream twice: {', '.join(self.use)}")
        return self

    @model_validator(mode="after")
    def _frames_of_streams_are_evenly_spaced(self) -> "ModelSettings":
        for name, stream in self.used.items():
            if self.frames % (stream.frames or 1):
                raise ValueError(
                    f"streams.{name}.frames is {stream.frames}, expected null or a number by which frames "
                    f"({self.frames}) can be divided"
                )
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
