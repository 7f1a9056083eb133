"""Building a backbone from its settings.

timm and torchvision are imported only when a network of theirs is built. That takes a second, and the small networks do
without them.
"""

from pipeline.common.errors import UserError
from pipeline.common.features import Features
from pipeline.common.model_settings import StreamSettings
from pipeline.models.backbone import Backbone
from pipeline.models.small import SmallFrameNetwork, SmallSpectrogramNetwork

SMALL = "small"


def build_backbone(name: str, settings: StreamSettings, features: Features) -> Backbone:
    """The network of the stream `name`, with random weights; `features` are those of a clip as the model takes it.

    Raises `UserError` for an unknown network, and for features that do not fit the network.
    """
    features = features.model_copy(update={"frames": settings.frames or features.frames})
    if settings.input == "people":
        return _people_network(name, settings, features)
    takes_frames = settings.input == "frames"
    if settings.network == SMALL:
        if settings.grid != 1:
            raise UserError(f"recipe.model.streams.{name}.grid is {settings.grid}, but the small network takes 1")
        return SmallFrameNetwork(features) if takes_frames else SmallSpectrogramNetwork(features)
    return _frame_network(settings, features) if takes_frames else _log_mel_network(settings, features)


def _people_network(name: str, settings: StreamSettings, features: Features) -> Backbone:
    """A network for frames, which takes the crops of all people of a clip as its frames."""
    from pipeline.models.torchvision_networks import CLIP_NETWORKS

    if settings.network in CLIP_NETWORKS:
        raise UserError(
            f"{name} takes people, but {settings.network} is a network for clips; faces are not followed from frame to "
            "frame: take small, or one of timm's"
        )
    people = features.people
    crops = features.model_copy(update={"frames": features.frames * people.most, "frame_size_px": people.size_px})
    try:
        return build_backbone(name, settings.model_copy(update={"input": "frames", "frames": None}), crops)
    except UserError as error:
        raise UserError(
            f"{name} takes people, so its frame_size_px is recipe.features.people.size_px: {error}"
        ) from None


def _frame_network(settings: StreamSettings, features: Features) -> Backbone:
    from pipeline.models.timm_networks import FrameNetwork
    from pipeline.models.torchvision_networks import CLIP_NETWORKS, ClipNetwork

    return (ClipNetwork if settings.network in CLIP_NETWORKS else FrameNetwork)(settings, features)


def _log_mel_network(settings: StreamSettings, features: Features) -> Backbone:
    from pipeline.models.audio_networks import AUDIO_TRANSFORMERS, AudioTransformerNetwork, PictureNetwork
    from pipeline.models.torchvision_networks import CLIP_NETWORKS

    if settings.network in CLIP_NETWORKS:
        raise UserError(f"{settings.network} is a network for frames; for log_mel take small, or one of timm's")
    return (AudioTransformerNetwork if settings.network in AUDIO_TRANSFORMERS else PictureNetwork)(settings, features)
