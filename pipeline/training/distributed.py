"""The processes that were launched: joining them, stopping together, naming the one that is gone."""

import os
import signal
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.commands.config.config_args import default_config_file, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, str_to_bool
from torch import nn

from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.machine import launch_command

TRACKER_LOGS = Path("logs")


def start_accelerator(config: Config, trains: bool = True) -> Accelerator:
    """An Accelerator on the device and with the number of processes that the launcher was asked for (P11).

    Raises `UserError` when fewer processes were started, when they did not find each other and each would train alone,
    and for a device, a precision or a tracker that is not there. Scoring (`trains` false) needs no tracker, and takes
    full precision where there is no fp16.
    """
    launch = launch_arguments()
    asked_for_cpu = os.environ.get("ACCELERATE_USE_CPU")
    cpu = bool(str_to_bool(asked_for_cpu or "false")) or bool(launch and launch.use_cpu)
    if (asked_for_cpu or launch) and not cpu and not torch.cuda.is_available():
        raise UserError("the launch settings ask for a GPU and there is none here; use launch: cpu")
    precision: str = config.recipe.training.mixed_precision
    if precision == "fp16" and (cpu or not torch.cuda.is_available()):
        if trains:
            raise UserError("training.mixed_precision is fp16, which a CPU does not train in; use bf16 or no")
        precision = "no"
    trackers = list(config.execution.trackers) if trains else []
    installed = {str(name) for name in get_available_trackers()}
    if absent := [name for name in trackers if name not in installed]:
        raise UserError(f"execution.trackers names {absent[0]}, which is not installed; pip install {absent[0]}")
    timeout_s = config.execution.process_timeout_s
    try:
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=precision,
            log_with=trackers or None,
            project_dir=TRACKER_LOGS,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_s))],
        )
    except (torch.distributed.DistStoreError, torch.distributed.DistNetworkError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"the processes did not find each other within {timeout_s:.0f} s ({said})") from None
    if launch and accelerator.num_processes < launch.num_processes:
        raise UserError(
            f"accelerate launch was asked for {launch.num_processes} processes and {accelerator.num_processes} run; "
            "several processes need distributed_type: MULTI_GPU (--multi_gpu), on CPUs too: see configs/accelerate/"
        )
    if accelerator.num_processes != (asked := int(os.environ.get("WORLD_SIZE", "1"))):
        raise UserError(
            f"{asked} processes were launched but this one runs in a group of {accelerator.num_processes}; "
            "use a file of configs/accelerate/, and set ACCELERATE_USE_CPU=true for several processes without a GPU"
        )
    return accelerator


def launch_arguments() -> Namespace | None:
    """What `accelerate launch` was asked for, when it started this process: num_processes, use_cpu.

    Its command line is the only place that says so: asked for several processes on a CPU, it starts one and is silent.
    """
    if (command := launch_command()) is None:
        return None
    given = vars(launch_command_parser().parse_known_args(command)[0])
    settings: dict[str, Any] = {}
    if given["config_file"] or (Path(default_config_file).is_file() and not given["cpu"]):
        settings = vars(load_config_from_file(given["config_file"]))
    return Namespace(
        num_processes=given["num_processes"] or settings.get("num_processes") or 1,
        use_cpu=given["cpu"] or settings.get("use_cpu", False),
    )


class StopSignal:
    """SIGTERM, as a cluster sends it before it takes a machine away; all processes act on it in the same step."""

    def __init__(self, timeout_s: float) -> None:
        self._received = False
        self._group = None
        if torch.distributed.is_initialized():
            # Of its own, on the CPU: asking must not wait for the GPU.
            timeout = timedelta(seconds=timeout_s)
            self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Note the signal instead of ending."""

        def note(*_: object) -> None:
            self._received = True

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def received(self) -> bool:
        """Whether any of the processes received it; every process must ask."""
        if self._group is None:
            return self._received
        flag = torch.tensor(int(self._received))
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, self._group)
        return bool(flag.item())


@contextmanager
def names_a_lost_process(timeout_s: float) -> Iterator[None]:
    """Turn what a collective raises when another process died or hangs into one sentence."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if torch.distributed.is_initialized() and any(word in str(error) for word in ("gloo", "Gloo", "NCCL")):
            raise UserError(
                f"another process of this run ended, or was silent for {timeout_s:.0f} s ({said}); "
                "what it said itself tells why. The same command goes on from the last checkpoint"
            ) from None
        raise


def share_batch_norm(model: nn.Module, device: torch.device, world: int) -> None:
    """Take BatchNorm's statistics over all processes; refuses CPUs, where PyTorch cannot."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if world == 1 or not any(norm.weight is None or norm.weight.requires_grad for norm in norms):  # or all are frozen
        return
    if device.type == "cpu":
        raise UserError(
            f"the model has BatchNorm layers, whose statistics {world} CPU processes cannot share; use one process"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
