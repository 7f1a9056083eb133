"""The settings of a run: read from params.yaml, checked against one schema, handed on as plain objects.

`params.yaml` is what DVC composes from `configs/` (Hydra groups `dataset` and `recipe`). Every key is declared here
with its unit; an unknown key, a missing one or a value of another type is refused with one sentence.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.common.errors import UserError

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class Settings(BaseModel):
    """A group of settings: immutable, no unknown keys, no silent conversion between types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Parsed = TypeVar("Parsed", bound=Settings)
Number = TypeVar("Number", bound=Any)


class DemoSet(Settings):
    """A drawn data set in VGAF's layout (`pipeline.clips.demo_set`)."""

    seed: int
    train_clips: Count = Field(description="multiple of 9: every pair of valences equally often")
    val_clips: Count = Field(description="multiple of 9")
    clips_per_source: Count
    frame_height_px: Annotated[int, Field(ge=96, multiple_of=2)]


class Dataset(Settings):
    """Where the clips are."""

    name: Name = Field(description="names the folders of the manifests, shards and run")
    root: str = Field(description="folder with Train/, Val/ and the label files; may be a symlink")
    synthesize: dict[str, DemoSet] = Field(description="sets to draw into `root` first; empty for a recorded set")


class Features(Settings):
    """What is taken from a clip (P1). Part of every shard's fingerprint."""

    frames: Count = Field(description="frames a clip, at evenly spaced times")
    frame_size_px: Annotated[int, Field(ge=16, multiple_of=2)] = Field(description="frames are squares of this side")
    framing: Literal["full_frame", "center_crop"] = Field(
        description="full_frame: the whole picture, scaled to the square; center_crop: its largest central square"
    )
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    front_end: Literal["librosa", "kaldi"] = Field(
        description="librosa: Slaney mels in dB; kaldi: the filter banks that AudioSet-pretrained transformers expect"
    )
    sample_rate_hz: Count
    fft_size: Count = Field(description="samples; kaldi takes the next power of two of window_length instead")
    window_length: Count = Field(description="samples")
    hop_length: Count = Field(description="samples")
    mel_bins: Count
    max_duration_s: Positive = Field(description="longer clips are quarantined; shorter log-mels are padded to it")
    require_video: bool = Field(description="false: a file with sound and no video stream is a clip too")

    @model_validator(mode="after")
    def _window_fits_the_fft(self) -> "Features":
        if self.window_length > self.fft_size:
            raise ValueError(f"window_length ({self.window_length}) must not exceed fft_size ({self.fft_size})")
        return self

    def mel_frames(self, samples: int) -> int:
        """Length, in hops, of the log-mel of a waveform: librosa's frames are centred, kaldi's lie within it."""
        if self.front_end == "librosa":
            return 1 + samples // self.hop_length
        return max(0, 1 + (samples - self.window_length) // self.hop_length)

    def hop_time_s(self, hop: Number) -> Number:
        """Time of the middle of a hop's window, in seconds from the clip's start; `hop` is a number or many."""
        offset = 0.0 if self.front_end == "librosa" else self.window_length / 2
        return (hop * self.hop_length + offset) / self.sample_rate_hz

    @property
    def max_mel_frames(self) -> int:
        """Length, in hops, that every log-mel is padded to in a batch: that of a clip of `max_duration_s`."""
        return self.mel_frames(round(self.max_duration_s * self.sample_rate_hz))


class Backbone(Settings):
    """The network of one modality (`pipeline.models.backbone`), and its weights (`pipeline.models.weights`)."""

    name: str = Field(description="small; a network of torchvision.models.video, for video; or a network of timm")
    weights: str = Field(description="none: random; pretrained: the published ones; or a local file of them")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(description="of the file, if it is pinned")
    min_matched: Annotated[float, Field(gt=0, le=1)] = Field(
        description="smallest share of the network's tensors that the file must fill"
    )
    grid: Count = Field(
        description="parts of a picture's sides, or of the mel axis, that give a token each; 1: one token a moment"
    )

    @model_validator(mode="after")
    def _what_is_pinned_is_read(self) -> "Backbone":
        if self.weights == "none" and self.sha256 is not None:
            raise ValueError("weights is none, so there is no file whose sha256 could be pinned; set sha256: null")
        return self


Fusion = Literal["cross_attention", "self_attention", "concat", "late", "video", "audio"]


class Model(Settings):
    """The network (`pipeline.models.model`)."""

    video: Backbone
    audio: Backbone
    freeze_backbones: bool = Field(description="true: backbones stay as they were loaded, the rest is trained")
    gradient_checkpointing: bool = Field(description="backbones keep less in memory and compute it again")
    fusion: Fusion = Field(description="how the modalities meet (`pipeline.models.fusion`); video, audio: one alone")
    width: Annotated[int, Field(ge=8, multiple_of=8)] = Field(description="width of the tokens in the fusion")
    heads: Count
    layers: Count = Field(description="attention blocks of the fusion, one after the other")
    pooling: Literal["mean", "learned"] = Field(description="of a modality's tokens; learned: a weighted mean")
    dropout: Fraction
    stochastic_depth: Fraction = Field(description="probability that a clip skips a branch of an attention block")

    @property
    def backbones(self) -> dict[str, Backbone]:
        """Those of the modalities that the fusion uses."""
        both = {"video": self.video, "audio": self.audio}
        return {self.fusion: both[self.fusion]} if self.fusion in both else both

    @model_validator(mode="after")
    def _what_is_frozen_has_learnt(self) -> "Model":
        if self.freeze_backbones and any(backbone.weights == "none" for backbone in self.backbones.values()):
            raise ValueError("freeze_backbones is true and weights is none: random networks would never learn")
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "Model":
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self


class Augmentation(Settings):
    """Random changes to training batches (`pipeline.loading.augmentation`); each is drawn per clip."""

    flip: bool = Field(description="mirror all frames of a clip, with probability one half")
    min_crop: Annotated[float, Field(gt=0, le=1)] = Field(
        description="smallest side of the random crop, of the frame's"
    )
    color_jitter: Fraction = Field(description="brightness and contrast change by up to this share")
    gain_db: Annotated[float, Field(ge=0)] = Field(description="loudness changes by up to this many dB")
    roll_s: Annotated[float, Field(ge=0)] = Field(description="the sound moves by up to this, around the clip's ends")
    mask_mel_bins: Annotated[int, Field(ge=0)] = Field(description="SpecAugment: widest frequency mask, in mel bins")
    mask_time_s: Annotated[float, Field(ge=0)] = Field(description="SpecAugment: longest time mask, in seconds")
    drop_video: Fraction = Field(description="share of the clips that are trained on without their video")
    drop_audio: Fraction = Field(description="share of the clips that are trained on without their sound")

    @model_validator(mode="after")
    def _one_modality_is_left(self) -> "Augmentation":
        if self.drop_video + self.drop_audio > 1:
            raise ValueError(f"drop_video ({self.drop_video}) and drop_audio ({self.drop_audio}) exceed 1 together")
        return self


class RateScales(Settings):
    """Factors of the learning rate of each part of the network."""

    backbones: Positive
    fusion: Positive
    head: Positive


class Training(Settings):
    """The optimisation (`pipeline.training.loop`)."""

    epochs: Count
    batch_size: Count = Field(description="clips an optimisation step, over all processes and micro-batches together")
    micro_batches: Count = Field(description="parts in which a process works through its clips of a step, for memory")
    shuffle_shards: Count = Field(description="shards whose clips are shuffled among each other; the shards all are")
    learning_rate: Positive
    rate_scales: RateScales
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        description="factor of the learning rate for each layer of a backbone further from its output"
    )
    weight_decay: Annotated[float, Field(ge=0)]
    warmup: Fraction = Field(description="share of the steps in which the learning rate rises")
    clip_norm: Positive = Field(description="largest gradient norm")
    label_smoothing: Fraction
    ema_decay: Fraction = Field(description="a step's, of the moving average of the weights that is scored; 0: none")
    patience: Annotated[int, Field(ge=0)] = Field(description="epochs without a better one that end the run; 0: never")
    mixed_precision: Literal["no", "bf16", "fp16"] = Field(description="fp16 needs a GPU")
    channels_last: bool = Field(description="convolutions work on channels-last memory")
    compile: bool = Field(description="torch.compile: minutes at the start, faster steps on a GPU")
    select_on: Literal["dev", "val", "none"] = Field(
        description="split that chooses the epoch. dev: sources held out of train; val: the reported split itself; "
        "none: the last epoch is taken, and all of train is trained on"
    )
    dev_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(description="share of the train sources held out as dev")
    augmentation: Augmentation

    @model_validator(mode="after")
    def _patience_has_something_to_wait_for(self) -> "Training":
        if self.select_on == "none" and self.patience:
            raise ValueError(
                f"patience ({self.patience}) needs epochs that are scored; with select_on none, set it to 0"
            )
        return self


class Recipe(Settings):
    """What a model is made of and how it is trained."""

    name: Name
    features: Features
    model: Model
    training: Training


class Extract(Settings):
    """How extraction runs, and the limits that no clip may exceed (P6)."""

    clips_per_shard: Count
    max_failed_fraction: Fraction = Field(description="a larger share of quarantined clips fails the stage")
    max_pixels: Count = Field(description="width x height of the largest picture decoded")
    timeout_s: Positive = Field(description="longest time for one clip")
    memory_mb: Count = Field(description="MiB that a process may allocate to read a clip, beyond what it starts with")
    decoder: Literal["in_process", "ffmpeg"] = Field(
        description="in_process: H.264 through PyAV, decoding only what the sampled frames need; ffmpeg: everything"
    )
    executor: Literal["local", "dask"] = Field(
        description="local: a process a core; dask: the cluster behind `scheduler`"
    )
    scheduler: str | None = Field(description="address of Dask's scheduler, tcp://host:port; null with `local`")

    @model_validator(mode="after")
    def _dask_has_a_scheduler(self) -> "Extract":
        if (self.executor == "dask") != (self.scheduler is not None):
            raise ValueError(f"executor {self.executor} does not go with scheduler {self.scheduler}; dask needs one")
        return self


class Execution(Settings):
    """How training and evaluation run. The results do not depend on it, if `shards_url` has what was extracted."""

    decode_threads: Count = Field(description="threads a process that read and decode clips")
    shards_url: str | None = Field(
        description="http(s):// or s3:// folder of finished shards to train on; null: what the extract stage wrote"
    )
    cache: str = Field(description="folder for the shards fetched from `shards_url`")
    pretrained: str = Field(description="folder of the published weights that were fetched; ~ is the user's home")
    checkpoint_steps: Count = Field(description="steps from one checkpoint to the next; an epoch's end has one anyway")
    trackers: list[Literal["tensorboard", "dvclive", "mlflow", "wandb"]] = Field(
        description="where the curves are sent to while training, besides history.csv"
    )
    process_timeout_s: Positive = Field(description="a process that is silent for longer ends the whole run")

    @model_validator(mode="after")
    def _shards_url_is_one(self) -> "Execution":
        if self.shards_url is not None and not self.shards_url.startswith(("http://", "https://", "s3://")):
            raise ValueError(f"shards_url is {self.shards_url}; expected null, http://..., https://... or s3://...")
        return self


class Config(Settings):
    """Everything that params.yaml holds."""

    dataset: Dataset
    recipe: Recipe
    extract: Extract
    execution: Execution
    launch: Name = Field(description="Accelerate's settings: configs/accelerate/<launch>.yaml")
    seed: Annotated[int, Field(ge=0)]

    @property
    def root(self) -> Path:
        """Folder of the clips and label files."""
        return Path(self.dataset.root)

    @property
    def manifests(self) -> Path:
        """Folder that `index` writes."""
        return Path("data_manifests") / self.dataset.name

    @property
    def shards(self) -> Path:
        """Folder that `extract` writes: a folder a split."""
        return Path("data/shards") / self.dataset.name

    @property
    def cache(self) -> Path:
        """Folder of the shards fetched from `execution.shards_url`: a folder a split."""
        return Path(self.execution.cache) / self.dataset.name

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of an unfinished training."""
        return Path("checkpoints") / self.dataset.name

    @property
    def run(self) -> Path:
        """Folder that `train` writes."""
        return Path("runs") / self.dataset.name

    @property
    def results(self) -> Path:
        """Folder that `evaluate` and `report` write."""
        return Path("results")


def load_config(path: Path = Path("params.yaml")) -> Config:
    """Read and check the settings; raises `UserError` with a sentence for the first thing that is wrong."""
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path} is not here: run from the repository's root ({Path.cwd()} is the current folder)"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return parse_config(values, str(path))


def parse_config(values: Any, source: str) -> Config:
    """Check settings that are already parsed; `source` names where they are from in error messages."""
    return _parse(Config, values, source)


def load_recipe(name: str, folder: Path = Path("configs/recipe")) -> Recipe:
    """One of the recipes that params.yaml can be composed of."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"there is no recipe {name}; expected one of {', '.join(recipe_names(folder))}")
    return _parse(Recipe, yaml.safe_load(path.read_text()), str(path))


def recipe_names(folder: Path = Path("configs/recipe")) -> list[str]:
    """The recipes that there are."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _parse(model: type[Parsed], values: Any, source: str) -> Parsed:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error)}") from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key {key}; remove it or correct its name (keys: pipeline/common/config.py)"
        case "missing":
            return f"{key} is missing; add it (keys: pipeline/common/config.py)"
        case "float_type" if isinstance(first["input"], str):
            return f"{key} is the text {first['input']!r}, expected a number; YAML reads 1e-3 as text, write 1.0e-3"
        case _:
            return f"{key} is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"
