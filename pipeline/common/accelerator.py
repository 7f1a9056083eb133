"""The device and the processes that the launcher was asked for, joined by Accelerate."""

import os
import sys
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
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, str_to_bool

from pipeline.common.config import Config
from pipeline.common.errors import UserError, missing_package
from pipeline.common.machine import launch_command

TRACKER_LOGS = Path("logs")
LAUNCH_FOLDER = Path("configs/accelerate")


def start_accelerator(config: Config, trains: bool = True) -> Accelerator:
    """Join the processes of this launch on the device that the launcher was asked for.

    Without a launcher, that is the device of the settings' `launch`, or the CPU of a machine without a GPU.
    With `trains` false, for scoring, no tracker is needed, and fp16 becomes full precision where it is not available.
    Raises `UserError` if the processes are not as many as were asked for, do not divide among the machines, or do not
    find each other, and for a port, a device, a precision or a tracker that is not available.
    """
    launch = launch_arguments()
    _check_launch(launch)
    use_cpu = _uses_cpu(launch, config)
    trackers = _installed_trackers(config) if trains else []
    timeout_s = config.execution.process_timeout_s
    try:
        accelerator = Accelerator(
            cpu=use_cpu,
            mixed_precision=_precision(config.recipe.training.mixed_precision, use_cpu, trains),
            log_with=trackers or None,
            project_dir=TRACKER_LOGS,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_s)),
                # Backbones that are frozen at first have no gradient, which the processes would wait for.
                DistributedDataParallelKwargs(find_unused_parameters=config.recipe.training.freeze_epochs > 0),
            ],
        )
    except (torch.distributed.DistStoreError, torch.distributed.DistNetworkError) as error:
        reason = str(error).splitlines()[0]
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"port {os.environ.get('MASTER_PORT')} is taken on this machine, maybe by another training; choose "
                "another one for all processes, with --main_process_port or MASTER_PORT"
            ) from None
        raise UserError(
            f"the processes did not find each other within {timeout_s:.0f} s ({reason}); "
            "start all of them, with the same --main_process_ip and --main_process_port"
        ) from None
    _check_number_of_processes(accelerator.num_processes, launch)
    if accelerator.device.type == "cuda":
        choose_gpu_arithmetic(config.recipe.training.deterministic)
    return accelerator


def choose_gpu_arithmetic(deterministic: bool) -> None:
    """If `deterministic`, have a GPU compute the same bits each time, in full fp32; if not, compute fast, with TF32.

    An operation that has no deterministic algorithm only warns. cuDNN is not asked to try its algorithms out
    (`cudnn.benchmark`). It would do so for each new shape, and batches have many, because each is about as long as its
    longest clip: on an H200 it took 7 s for one shape of the recipe `small` and 23 s for one of `light`, whose steps
    were then no faster.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not deterministic


@contextmanager
def names_full_memory() -> Iterator[None]:
    """Turn what PyTorch raises when a GPU has no memory left into a `UserError`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU has no memory left ({str(error).splitlines()[0]}); set recipe.training.micro_batches higher, "
            "recipe.model.gradient_checkpointing to true, or recipe.training.mixed_precision to bf16"
        ) from None


def _uses_cpu(launch: Namespace | None, config: Config) -> bool:
    asked_for_cpu = os.environ.get("ACCELERATE_USE_CPU")
    if asked_for_cpu is None and launch is None:
        use_cpu = _settings_use_cpu(config.launch)
    else:
        use_cpu = bool(str_to_bool(asked_for_cpu or "false")) or bool(launch and launch.use_cpu)
    if use_cpu and torch.cuda.is_available():
        print(
            "warning: this machine has a GPU, which is not used: launch is cpu. Use it with -S launch=gpu, with "
            f"--config_file {LAUNCH_FOLDER}/gpu.yaml, or with ACCELERATE_USE_CPU=false",
            file=sys.stderr,
        )
    if (asked_for_cpu or launch) and not use_cpu and not torch.cuda.is_available():
        raise UserError(
            "the launch settings ask for a GPU and this machine has none; use -S launch=cpu "
            "or configs/accelerate/cpu.yaml"
        )
    return use_cpu


def _settings_use_cpu(launch: str) -> bool:
    """Whether the settings of a launch are for a CPU; False without their file, which an exported model may lack."""
    path = LAUNCH_FOLDER / f"{launch}.yaml"
    return path.is_file() and bool(load_config_from_file(str(path)).use_cpu)


def _precision(wanted: str, use_cpu: bool, trains: bool) -> str:
    if wanted == "fp16" and (use_cpu or not torch.cuda.is_available()):
        if trains:
            raise UserError("recipe.training.mixed_precision is fp16, which a CPU cannot train in; use bf16 or no")
        return "no"
    return wanted


def _installed_trackers(config: Config) -> list[str]:
    installed = {str(name) for name in get_available_trackers()}
    if absent := [name for name in config.execution.trackers if name not in installed]:
        raise missing_package(absent[0], f"execution.trackers names {absent[0]}")
    return list(config.execution.trackers)


def _check_launch(launch: Namespace | None) -> None:
    if launch and launch.num_processes % launch.num_machines:
        raise UserError(
            f"num_processes is {launch.num_processes} for {launch.num_machines} machines, expected a multiple of "
            f"{launch.num_machines}: it counts the processes of all machines, which have equally many"
        )


def _check_number_of_processes(running: int, launch: Namespace | None) -> None:
    if launch and running < launch.num_processes:
        raise UserError(
            f"accelerate launch was asked for {launch.num_processes} processes and {running} run; "
            "several processes need distributed_type: MULTI_GPU (--multi_gpu), on CPUs too: see configs/accelerate/"
        )
    if running != (launched := int(os.environ.get("WORLD_SIZE", "1"))):
        raise UserError(
            f"{launched} processes were launched but this one runs in a group of {running}; "
            "use a file of configs/accelerate/, and set ACCELERATE_USE_CPU=true for several processes without a GPU"
        )


def launch_arguments() -> Namespace | None:
    """What `accelerate launch` was asked for (`num_processes`, `num_machines`, `use_cpu`).

    None if it did not start this process. Only its command line tells: asked for several processes on a CPU, it starts
    one without a warning.
    """
    if (command := launch_command()) is None:
        return None
    given = vars(launch_command_parser().parse_known_args(command)[0])
    settings: dict[str, Any] = {}
    if given["config_file"] or (Path(default_config_file).is_file() and not given["cpu"]):
        settings = vars(load_config_from_file(given["config_file"]))
    return Namespace(
        num_processes=given["num_processes"] or settings.get("num_processes") or 1,
        num_machines=given["num_machines"] or settings.get("num_machines") or 1,
        use_cpu=given["cpu"] or settings.get("use_cpu", False),
    )


@contextmanager
def names_a_lost_process(timeout_s: float) -> Iterator[None]:
    """Turn what a collective operation raises when another process died or hangs into a `UserError`."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if torch.distributed.is_initialized() and any(word in str(error) for word in ("gloo", "Gloo", "NCCL")):
            raise UserError(
                f"another process of this launch ended, or was silent for {timeout_s:.0f} s ({reason}); "
                "its own output tells why. Run the same command again; a training continues from its last checkpoint"
            ) from None
        raise
