"""The settings of the features: what is taken from a clip and stored."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from pipeline.common.people_settings import PeopleSettings
from pipeline.common.schema import Count, Settings

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
        description="longer clips are quarantined; shorter log-mels are padded to at most this"
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
        """Length, in hops, of the longest log-mel: that of a clip of `max_duration_s`."""
        return self.mel_frames(round(self.max_duration_s * self.sample_rate_hz))
