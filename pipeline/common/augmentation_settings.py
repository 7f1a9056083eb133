"""The settings of the random changes to training batches."""

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.common.schema import Fraction, Settings


class AugmentationSettings(Settings):
    """Random changes to training batches (`pipeline.loading.augmentation`); each is drawn per clip."""

    flip: bool = Field(description="mirror all frames of a clip with probability one half")
    min_crop: Annotated[float, Field(gt=0, le=1)] = Field(
        description="smallest side of the random crop, as a share of the frame's side"
    )
    max_crop: Annotated[float, Field(ge=1)] = Field(
        description="largest side of the random crop; above 1, the picture becomes smaller, and its mirror image "
        "surrounds it"
    )
    translation: Fraction = Field(
        description="the crop is shifted by up to this share of the frame's side, also beyond the edge of the picture"
    )
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = Field(
        description="the pictures are turned by up to this many degrees, either way"
    )
    color_jitter: Fraction = Field(description="brightness and contrast change by up to this share")
    erasing: Annotated[float, Field(ge=0, le=1)] = Field(
        description="probability that a rectangle, the same in all frames of a clip, gets the clip's mean colour"
    )
    tempo: Fraction = Field(
        description="the clip is played faster or slower by up to this share, frames and sound; the pitch stays"
    )
    gain_db: Annotated[float, Field(ge=0)] = Field(description="loudness changes by up to this many dB")
    noise_db: Annotated[float, Field(ge=0)] = Field(
        description="Gaussian noise is added to the log-mel; its deviation is drawn, up to this many dB"
    )
    pitch_mel_bins: Annotated[float, Field(ge=0)] = Field(
        description="the spectrum is shifted along the mel axis by up to this many bins"
    )
    roll_s: Annotated[float, Field(ge=0)] = Field(
        description="the sound is shifted by up to this many seconds; what leaves at one end enters at the other"
    )
    mask_mel_bins: Annotated[int, Field(ge=0)] = Field(description="SpecAugment: widest frequency mask, in mel bins")
    mask_time_s: Annotated[float, Field(ge=0)] = Field(description="SpecAugment: longest time mask, in seconds")
    drop: dict[str, Fraction] = Field(
        description="for each stream, the share of the clips with another stream that are trained on without this one; "
        "a clip loses one at most"
    )
    drop_final: Annotated[float, Field(ge=0, le=1)] = Field(
        description="share of drop that is left at the end of the training; it falls linearly; 1: it stays"
    )
    mixup_alpha: Annotated[float, Field(ge=0)] = Field(
        description="mixup: neighbouring clips of a step and their labels are mixed, in shares drawn from "
        "Beta(alpha, alpha); 0: they are not"
    )

    @model_validator(mode="after")
    def _no_clip_loses_two(self) -> "AugmentationSettings":
        if sum(self.drop.values()) > 1:
            raise ValueError(f"the shares of drop exceed 1 together: {self.drop}")
        return self

    def after(self, share: float) -> "AugmentationSettings":
        """The settings of a step before which a share of the training is done, in 0..1."""
        left = 1 - share * (1 - self.drop_final)
        return self.model_copy(update={"drop": {name: left * share for name, share in self.drop.items()}})
