"""Everything that changes while a model is trained, as one object. A checkpoint holds all of it.

There is no random state in it. What is random in a step follows from (seed, step, process).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pipeline.models.model import GroupEmotionModel
from pipeline.models.run_record import Epoch, StreamEpoch
from pipeline.training.objective import Objective

# File name without suffix -> tensors by name.
StateTensors = dict[str, dict[str, Tensor]]


@dataclass
class Position:
    """How far a training has come: the part of its state that is not made of tensors.

    `history` has one row for each finished epoch, and `streams` one for each of its streams. `changes` lists what was
    changed when the training was resumed. `elapsed_s` and `wait_s` (for data) are those of the running epoch.
    `skipped_in_row` counts the latest steps in a row whose gradients were not finite.
    """

    step: int = 0
    history: list[Epoch] = field(default_factory=list)
    streams: list[StreamEpoch] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0
    wait_s: float = 0.0
    skipped_in_row: int = 0


@dataclass(kw_only=True)
class TrainingState(Position):
    """The whole state of a training.

    `sums` are those of the running epoch (`pipeline.training.epoch_sums`). `best` are the weights of the best epoch so
    far. `average` is the moving average of the model, if there is one; `scaler` scales the loss in fp16.
    """

    sums: Tensor
    best: dict[str, Tensor] = field(default_factory=dict)
    objective: Objective
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.grad_scaler.GradScaler | None

    @property
    def model(self) -> GroupEmotionModel:
        """The model that is trained."""
        return self.objective.model

    @property
    def position(self) -> Position:
        """The part of the state that is not made of tensors."""
        return Position(**{each.name: getattr(self, each.name) for each in fields(Position)})

    def tensors(self) -> StateTensors:
        """The tensors of the state, on the CPU; some share memory with the state."""
        scale = self.scaler.state_dict() if self.scaler else {}
        return {
            "model": weights_of(self.model),
            "heads": weights_of(self.objective.heads),
            "average": weights_of(self.average) if self.average else {},
            "best": self.best,
            "optimizer": optimizer_tensors(self.optimizer, self.objective),
            "scaler": {key: torch.tensor(value) for key, value in scale.items()},
            "sums": {"sums": self.sums.cpu()},
        }

    def restore(self, position: Position, tensors: StateTensors, process: int) -> None:
        """Undo `position` and `tensors` for one process.

        Raises `RuntimeError` or `KeyError` for tensors of another network.
        """
        self.model.load_state_dict(tensors["model"])
        self.objective.heads.load_state_dict(tensors["heads"])
        if self.average and tensors["average"]:
            self.average.load_state_dict(tensors["average"])
        self.best = tensors["best"]
        restore_optimizer(self.optimizer, self.objective, tensors["optimizer"])
        if self.scaler and tensors["scaler"]:
            self.scaler.load_state_dict({key: value.item() for key, value in tensors["scaler"].items()})
        sums = tensors["sums"]["sums"]
        # Another number of processes than before shares the sums evenly.
        own_sums = sums[process] if len(sums) == len(self.sums) else sums.sum(dim=0) / len(self.sums)
        self.sums.zero_()[process] = own_sums
        for each in fields(Position):
            setattr(self, each.name, getattr(position, each.name))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's weights and buffers, on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The state of an optimiser as tensors named `<parameter>.<state>`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}.{key}": value.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimizer_tensors`; the optimiser keeps the settings of its parameter groups."""
    named: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parameter, _, key = name.rpartition(".")
        named.setdefault(parameter, {})[key] = value
    names = {parameter: name for name, parameter in model.named_parameters()}
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {key: _laid_out_like(parameter, value) for key, value in named[names[parameter]].items()}
        for number, parameter in enumerate(ordered)
        if names[parameter] in named
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """In the parameter's memory format, which safetensors does not keep."""
    return torch.empty_like(parameter, device="cpu").copy_(value) if value.shape == parameter.shape else value
