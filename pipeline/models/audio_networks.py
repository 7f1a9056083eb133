"""Networks of timm on the log-mel, which they get as a picture with one channel."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.common.errors import UserError
from pipeline.common.features import Features
from pipeline.common.model_settings import StreamSettings
from pipeline.models.backbone import HUB, Published, grid_means, next_multiple, require, require_multiple
from pipeline.models.probing import try_out
from pipeline.models.run_record import Interface
from pipeline.models.timm_networks import TimmBackbone, patch_size, stated_settings
from pipeline.shards.log_mel_units import LEVELS

PICTURE_STRIDE = 32  # of most networks: they take pictures whose sides are multiples of it


class SpectrogramNetwork(TimmBackbone):
    """A network on the log-mel, which is padded with silence to a multiple of `hops_multiple` hops.

    For each time step it gives one token for each of `grid` mel bands, which is the mean over the band. `deviation`
    divides the log-mel; `arguments` are timm's.
    """

    def __init__(
        self,
        settings: StreamSettings,
        features: Features,
        architecture: str,
        hops_multiple: int,
        deviation: float,
        **arguments: Any,
    ) -> None:
        super().__init__(settings.network, architecture, in_chans=1, **arguments)
        self.remove_head()
        self.levels = LEVELS[features.front_end]
        bins, hops = features.mel_bins, features.max_mel_frames
        self.grid, self.hops_multiple = settings.grid, hops_multiple
        stride, patch = self.network.feature_info[-1]["reduction"], patch_size(self.network)
        require_multiple(settings.network, features, "mel_bins", patch)
        gives = (next_multiple(hops, hops_multiple) // stride, self.grid, self.network.num_features)
        self.interface = Interface((bins, hops), (self.levels.mean,), (deviation,), gives, stride)
        centre = try_out(self, settings.network)
        # Networks of patches merge them without a layer that has a stride, so `centre` misses that.
        self.interface = replace(self.interface, offset=(stride - 1) / 2 if patch > 1 else centre)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mel (B, mel_bins, T) -> tokens (B, time, grid, D)."""
        padding = -log_mel.shape[-1] % self.hops_multiple
        levels = F.pad(log_mel.float(), (0, padding), value=self.levels.silence)
        pictures = ((levels - self.interface.mean[0]) / self.interface.deviation[0]).unsqueeze(1)
        maps = self.feature_map(pictures)
        tokens = grid_means(maps, self.grid, maps.shape[-1]).permute(0, 3, 2, 1)
        # A transformer that was trained on the mean of its tokens has its last norm behind that mean.
        return self.network.fc_norm(tokens) if hasattr(self.network, "fc_norm") else tokens


class PictureNetwork(SpectrogramNetwork):
    """A network that was made for pictures."""

    def __init__(self, settings: StreamSettings, features: Features) -> None:
        stated = stated_settings(settings.network)
        padded_hops = next_multiple(features.max_mel_frames, PICTURE_STRIDE)
        size = {"img_size": (features.mel_bins, padded_hops)} if stated and stated.fixed_input_size else {}
        deviation = LEVELS[features.front_end].deviation
        super().__init__(settings, features, settings.network, PICTURE_STRIDE, deviation, **size)
        # timm states which networks take only one size. It states nothing about those on the hub.
        self.any_length = bool(stated) and not size


@dataclass(frozen=True)
class AudioTransformer:
    """A vision transformer that was trained on kaldi's filter banks, laid out as (time, mel) pictures.

    A token covers `patch` hops and mel bins. The filter bank is divided by `deviations` times its deviation.
    """

    architecture: str
    repository: str
    patch: int
    mel_bins: int
    max_hops: int
    deviations: float


KALDI = {"front_end": "kaldi", "sample_rate_hz": 16000, "window_length": 400, "hop_length": 160}
# AudioMAE ViT-B/16 (arXiv 2207.06405), trained on AudioSet-2M and then on AudioSet-20k. The settings are those of its
# model card.
AUDIOMAE = "gaunernst/vit_base_patch16_1024_128.audiomae_as2m_ft_as20k"
AUDIO_TRANSFORMERS = {HUB + AUDIOMAE: AudioTransformer("vit_base_patch16_224", AUDIOMAE, 16, 128, 1024, 2.0)}


class AudioTransformerNetwork(SpectrogramNetwork):
    """A network of `AUDIO_TRANSFORMERS`."""

    def __init__(self, settings: StreamSettings, features: Features) -> None:
        name, hops = settings.network, features.max_mel_frames
        transformer = AUDIO_TRANSFORMERS[name]
        require(name, features, **KALDI, mel_bins=transformer.mel_bins)
        if hops > transformer.max_hops:
            raise UserError(
                f"recipe.features.max_duration_s is {features.max_duration_s}, {hops} hops, but {name} "
                f"takes at most {transformer.max_hops}: set it to {int(features.hop_time_s(transformer.max_hops))}.0"
            )
        padded_hops = next_multiple(hops, transformer.patch)
        deviation = transformer.deviations * LEVELS[features.front_end].deviation
        layout: dict[str, Any] = {"global_pool": "avg", "img_size": (padded_hops, features.mel_bins)}
        super().__init__(settings, features, transformer.architecture, transformer.patch, deviation, **layout)
        self.published = Published(repository=transformer.repository)

    def feature_map(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 1, mel_bins, T) -> features (B, D, mel, time); the network itself has time first."""
        return super().feature_map(pictures.transpose(2, 3)).transpose(2, 3)

    def adapt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cut the positions to the clip's length. timm would stretch them."""
        if "pos_embed" in weights:
            positions, prefix = weights["pos_embed"], self.prefix_tokens
            rows, bands = self.network.patch_embed.grid_size
            cut = positions[:, prefix:].reshape(1, -1, bands, positions.shape[-1])[:, :rows].flatten(1, 2)
            weights = weights | {"pos_embed": torch.cat([positions[:, :prefix], cut], dim=1)}
        return super().adapt(weights)
