"""What is taken from a clip and the limits of reading it, as one value."""

from pydantic import Field

from pipeline.common.config import ExtractSettings
from pipeline.common.features import Features
from pipeline.common.schema import Settings


class ClipSettings(Settings):
    """What is taken from a clip, and the limits that reading it must not exceed."""

    features: Features = Field(description="part of the recipe: what the model is given")
    limits: ExtractSettings = Field(description="how extraction runs on this machine, and what no clip may exceed")
