"""The settings of the faces that are looked for in a clip's frames."""

from typing import Annotated

from pydantic import Field

from pipeline.common.schema import Count, Settings


class PeopleSettings(Settings):
    """Which faces are stored of a frame, and how they are cut out (`pipeline.extraction.people`)."""

    most: Annotated[int, Field(ge=0)] = Field(
        description="faces that are stored of a frame, the largest ones; 0: none are looked for"
    )
    size_px: Annotated[int, Field(ge=16, multiple_of=2)] = Field(description="face crops are squares of this side")
    # As they are written, 0 or 0.0: they are a part of the name of a folder, which DVC makes from params.yaml.
    margin: Annotated[int | float, Field(ge=0, lt=1)] = Field(
        description="what a crop shows around the face: on each side, this share of the longer side of its box"
    )
    aligned: bool = Field(description="true: a crop is turned so that the eyes are level")
    smallest_px: Count = Field(description="faces with a shorter side below this in the searched picture are left out")
    confidence: Annotated[int | float, Field(ge=0, le=1)] = Field(description="faces with a lower score are left out")
    longest_side_px: Count = Field(description="larger pictures are scaled down to this before they are searched")

    @property
    def folder(self) -> str:
        """The part of the name of a folder of shards. dvc.yaml makes the same."""
        crops = f"{self.most}x{self.size_px}px-{self.margin}-{str(self.aligned).lower()}"
        return f"people-{crops}-{self.smallest_px}-{self.confidence}-{self.longest_side_px}"
