"""The audio-visual model: two backbones, the fusion of their tokens, class logits.

After "End-to-End Audio-Visual Group Emotion Recognition" (arXiv 2111.05890): all layers are trained through the fusion.
Its abstract fixes no more than that; depth, width, positions and pooling are this project's choices.
"""

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from pipeline.clips.labels import CLASSES
from pipeline.common.config import Backbone as Settings
from pipeline.common.config import Features, Model
from pipeline.common.errors import UserError
from pipeline.loading.loader import Batch
from pipeline.models.backbone import Backbone, Interface, SmallFrameNetwork, SmallSpectrogramNetwork
from pipeline.models.fusion import AUDIO, VIDEO, Fusion, Tokens

SMALL = "small"


def build_backbone(modality: str, settings: Settings, features: Features) -> Backbone:
    """The network that the settings name, with random weights; raises `UserError` where the features do not fit it."""
    if settings.name == SMALL:
        if settings.grid != 1:
            raise UserError(f"recipe.model.{modality}.grid is {settings.grid}, but the small network takes 1")
        return SmallFrameNetwork(features) if modality == VIDEO else SmallSpectrogramNetwork(features)
    # Only now: timm takes a second, and the small networks do without it.
    from pipeline.models.timm_networks import CLIP_NETWORKS, ClipNetwork, FrameNetwork, SpectrogramNetwork

    if modality == AUDIO:
        return SpectrogramNetwork(settings, features)
    return (ClipNetwork if settings.name in CLIP_NETWORKS else FrameNetwork)(settings, features)


class GroupEmotionModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="group-emotion",
    coders={kind: (kind.model_dump, kind.model_validate) for kind in (Model, Features)},
):
    """Class logits of a batch of clips. `fusion: video` and `fusion: audio` leave the other modality out altogether.

    It can be saved to a folder or to Hugging Face's hub, and loaded from there: `save_pretrained`, `from_pretrained`.
    """

    def __init__(self, settings: Model, features: Features) -> None:
        super().__init__()
        self.frozen = settings.freeze_backbones
        self.features = features
        self.networks = nn.ModuleDict(
            {name: build_backbone(name, each, features) for name, each in settings.backbones.items()}
        )
        given = {name: network.interface.gives[1:] for name, network in self.backbones().items()}
        self.fusion = Fusion(settings, given, len(CLASSES))
        for network in self.backbones().values():
            if self.frozen:
                network.requires_grad_(False)
            if settings.gradient_checkpointing:
                network.recompute()

    def backbones(self) -> dict[str, Backbone]:
        """The networks of the modalities that the fusion uses."""
        return dict(self.networks.items())  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> "GroupEmotionModel":
        """As usual; but frozen networks stay as in use, so that no statistics of theirs change."""
        super().train(mode)
        if self.frozen:
            self.networks.eval()
        return self

    def forward(self, batch: Batch, maps: list[Tensor] | None = None) -> Tensor:
        """Logits (B, classes), in the order of `CLASSES`; `maps` gets the attention (`Fusion.forward`)."""
        logits: Tensor = self.fusion(self.tokens(batch), maps)
        return logits

    def tokens(self, batch: Batch) -> dict[str, Tokens]:
        """What the backbones make of the clips."""
        makers = {VIDEO: self._video, AUDIO: self._audio}
        return {name: makers[name](network, batch) for name, network in self.backbones().items()}

    def _video(self, network: Backbone, batch: Batch) -> Tokens:
        """A token's time is that of the frame it is centred on, or between two; without video all is padding."""
        values, frames = network(batch.frames), network.interface.takes[0]
        centres = token_centres(network.interface, values)
        before, after = centres.floor().long(), centres.ceil().long().clamp(max=frames - 1)
        times_s = (batch.frame_times_s[:, before] + batch.frame_times_s[:, after]) / 2
        return Tokens(values, times_s, ~batch.has_video[:, None].expand(times_s.shape))

    def _audio(self, network: Backbone, batch: Batch) -> Tokens:
        """A token's time is that of the hop it is centred on; it is padding if its first hop is past the clip's end."""
        values = network(batch.log_mel)
        centres = token_centres(network.interface, values)
        first_hops = centres - network.interface.offset
        return Tokens(values, self.features.hop_time_s(centres), first_hops >= batch.mel_frames[:, None])


def token_centres(interface: Interface, values: Tensor) -> Tensor:
    """Frame or hop on which each of the tokens (B, time, space, D) is centred: (time,)."""
    return interface.stride * torch.arange(values.shape[1], device=values.device) + interface.offset
