"""The audio-visual model: one backbone per stream, the fusion of their tokens, class logits.

After "End-to-End Audio-Visual Group Emotion Recognition" (arXiv 2111.05890): all layers are trained through the fusion.
The paper's abstract states no more than that. Depth, width, positions and pooling are this project's choices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from pipeline.common.features import Features
from pipeline.common.model_settings import ModelSettings
from pipeline.loading.batch import Batch
from pipeline.loading.sampling import FrameSampling
from pipeline.models.backbone import Backbone
from pipeline.models.batch_norm import batch_norms, run_in_groups
from pipeline.models.building import build_backbone
from pipeline.models.fusion import Fusion, Tokens
from pipeline.models.later_settings import features_of_any_version, model_of_any_version, tensor_name_of_any_version
from pipeline.models.run_record import Interface


def read_features(values: Mapping[str, Any]) -> Features:
    """The features in a `config.json` of any version."""
    return Features.model_validate(features_of_any_version(values))


class GroupEmotionModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="group-emotion",
    coders={ModelSettings: (ModelSettings.model_dump, dict), Features: (Features.model_dump, read_features)},
):
    """Class logits of a batch of clips, from the streams that `settings.use` names.

    `features` are what is read of the stored clips, `inputs` the same with the frames that `sampling` takes of a clip.
    `labels` are the names of the classes in the order of the logits. While `frozen` is true, the backbones are in
    evaluation mode and get no gradient. `save_pretrained` saves the model to a folder or to Hugging Face's hub;
    `from_pretrained` loads it from there.
    """

    def __init__(self, settings: ModelSettings, features: Features, labels: Sequence[str]) -> None:
        super().__init__()
        self.frozen, self.norm_clips = settings.freeze_backbones, settings.norm_clips
        self.features, self.labels = settings.features_to_read(features), tuple(labels)
        views = settings.views if settings.takes_pictures else 1
        self.sampling = FrameSampling(features.frames, settings.frames, views)
        self.inputs = settings.inputs(features)
        self.networks = nn.ModuleDict(
            {name: build_backbone(name, stream, self.inputs) for name, stream in settings.used.items()}
        )
        frames = settings.frames
        self.steps = {name: frames // (stream.frames or frames) for name, stream in settings.used.items()}
        self.takes = {name: stream.input for name, stream in settings.used.items()}
        sizes = {name: network.interface.gives[1:] for name, network in self.backbones().items()}
        self.fusion = Fusion(settings, sizes, len(labels))
        for network in self.backbones().values():
            if self.frozen:
                network.requires_grad_(False)
            if settings.gradient_checkpointing:
                network.recompute()
        self.register_load_state_dict_pre_hook(rename_tensors_of_earlier_versions)  # type: ignore[no-untyped-call]

    @classmethod
    def _from_pretrained(cls, **options: Any) -> "GroupEmotionModel":
        """What `from_pretrained` does after it has read `config.json`, which may be of an earlier version."""
        settings = model_of_any_version(dict(options["settings"]), options["features"].frames)
        options["settings"] = ModelSettings.model_validate(settings)
        model: GroupEmotionModel = super()._from_pretrained(**options)
        return model

    def backbones(self) -> dict[str, Backbone]:
        """The networks of the streams, by the stream's name, in the order of the fusion."""
        return dict(self.networks.items())  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> "GroupEmotionModel":
        """Set the mode as usual, but keep frozen networks, and BatchNorm if `norm_clips` is 0, in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.networks.eval()
        if not self.norm_clips:
            for norm in batch_norms(self.networks):
                norm.eval()
        return self

    @property
    def any_length(self) -> bool:
        """Whether log-mels may be shorter than those of a clip of `max_duration_s`."""
        return all(network.any_length for name, network in self.backbones().items() if self.takes[name] == "log_mel")

    @property
    def clips_together(self) -> int:
        """In training, the clips of a step are computed in groups of this many."""
        return (self.norm_clips or 1) if batch_norms(self.networks) else 1

    def forward(self, batch: Batch, maps: list[Tensor] | None = None) -> Tensor:
        """Logits (B, classes), in the order of `labels`. Appends the attention to `maps` (`Fusion.forward`)."""
        logits: Tensor = self.fusion(self.tokens(batch), maps)
        return logits

    def tokens(self, batch: Batch) -> dict[str, Tokens]:
        """The tokens of the clips, by stream.

        Where `batch.hidden` hides a stream, all its tokens are padding, unless the clip has no other one that is shown.
        """
        encoders = {"frames": self._frame_tokens, "people": self._people_tokens, "log_mel": self._log_mel_tokens}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens = {
                name: encoders[self.takes[name]](network, self.frames_of(name, batch))
                for name, network in self.backbones().items()
            }
        return hide(tokens, batch.hidden)

    def frames_of(self, name: str, batch: Batch) -> Batch:
        """The batch with the frames that a stream takes."""
        step = self.steps[name]
        return batch if step == 1 else batch.in_frames(every_nth(step))

    def _frame_tokens(self, network: Backbone, batch: Batch) -> Tokens:
        """A token has the time of the frame on which it is centred, or of the middle between two frames.

        All tokens of a clip without video are padding.
        """
        values, frames = run_in_groups(network, batch.frames, self.norm_clips), network.interface.takes[0]
        centres = token_centres(network.interface, values)
        before, after = centres.floor().long(), centres.ceil().long().clamp(max=frames - 1)
        times_s = (batch.frame_times_s[:, before] + batch.frame_times_s[:, after]) / 2
        return Tokens(values, times_s, ~batch.has_video[:, None].expand(times_s.shape))

    def _people_tokens(self, network: Backbone, batch: Batch) -> Tokens:
        """A token has the time of its frame and the box of its face; a place without a face is padding."""
        assert batch.people is not None
        values = run_in_groups(network, batch.people.crops.flatten(1, 2), self.norm_clips)
        times_s = batch.frame_times_s.repeat_interleave(self.features.people.most, dim=1)
        return Tokens(values, times_s, ~batch.people.present.flatten(1), batch.people.boxes.flatten(1, 2))

    def _log_mel_tokens(self, network: Backbone, batch: Batch) -> Tokens:
        """A token has the time of the hop on which it is centred.

        A token is padding if its first hop is past the clip's end.
        """
        values = run_in_groups(network, batch.log_mel, self.norm_clips)
        centres = token_centres(network.interface, values)
        first_hops = centres - network.interface.offset
        return Tokens(values, self.features.hop_time_s(centres), first_hops >= batch.mel_frames[:, None])


def every_nth(step: int) -> slice:
    """The frames that a stream takes: of each `step` successive ones, the middle one."""
    return slice(step // 2, None, step)


def token_centres(interface: Interface, values: Tensor) -> Tensor:
    """Number of the frame or hop on which each of the tokens (B, time, space, D) is centred: (time,)."""
    return interface.stride * torch.arange(values.shape[1], device=values.device) + interface.offset


def hide(tokens: Mapping[str, Tokens], hidden: Mapping[str, Tensor]) -> dict[str, Tokens]:
    """The tokens by stream, all padding in the clips from which `hidden` (B,) hides a stream.

    From a clip that would be left without any stream, none is hidden.
    """
    if not hidden:
        return dict(tokens)
    shown = [~each.padding.all(dim=1) & ~hidden[name] for name, each in tokens.items()]
    has_any = torch.stack(shown).any(dim=0)
    return {
        name: replace(each, padding=each.padding | (hidden[name] & has_any)[:, None]) for name, each in tokens.items()
    }


def rename_tensors_of_earlier_versions(_: nn.Module, state: dict[str, Tensor], *__: Any) -> None:
    """Before a state dict is loaded: give its tensors the names that they have today."""
    for name in list(state):
        state[tensor_name_of_any_version(name)] = state.pop(name)
