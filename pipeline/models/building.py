"""Building a backbone from its settings.

timm and torchvision are imported only when a network of theirs is built. That takes a second, and the small networks do
without them.
"""

from pipeline.common.errors import UserError
from pipeline.common.recipe import BackboneSettings, Features
from pipeline.models.backbone import Backbone
from pipeline.models.fusion import VIDEO
from pipeline.models.small import SmallFrameNetwork, SmallSpectrogramNetwork

SMALL = "small"


def build_backbone(modality: str, settings: BackboneSettings, features: Features) -> Backbone:
    """The network that the settings name, with random weights.

    Raises `UserError` for a name that no network has, and for features that do not fit the network.
    """
    if settings.name == SMALL:
        if settings.grid != 1:
            raise UserError(f"recipe.model.{modality}.grid is {settings.grid}, but the small network takes 1")
        return SmallFrameNetwork(features) if modality == VIDEO else SmallSpectrogramNetwork(features)
    return _frame_network(settings, features) if modality == VIDEO else _audio_network(settings, features)


def _frame_network(settings: BackboneSettings, features: Features) -> Backbone:
    from pipeline.models.timm_networks import FrameNetwork
    from pipeline.models.torchvision_networks import CLIP_NETWORKS, ClipNetwork

    return (ClipNetwork if settings.name in CLIP_NETWORKS else FrameNetwork)(settings, features)


def _audio_network(settings: BackboneSettings, features: Features) -> Backbone:
    from pipeline.models.audio_networks import AUDIO_TRANSFORMERS, AudioTransformerNetwork, PictureNetwork
    from pipeline.models.torchvision_networks import CLIP_NETWORKS

    if settings.name in CLIP_NETWORKS:
        raise UserError(f"{settings.name} is a network for frames; for audio take small, or one of timm's")
    return (AudioTransformerNetwork if settings.name in AUDIO_TRANSFORMERS else PictureNetwork)(settings, features)
