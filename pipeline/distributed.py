"""Joining the processes that Accelerate launched."""

import os

from accelerate import Accelerator
from accelerate.utils import str_to_bool

from pipeline.errors import UserError


def start_accelerator(mixed_precision: str) -> Accelerator:
    """An Accelerator on the device and with the number of processes that the launcher was asked for (P11).

    Raises `UserError` when the launched processes did not find each other, where each would train alone, silently, and
    when a GPU was asked for and there is none.
    """
    cpu = bool(str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "false")))
    accelerator = Accelerator(cpu=cpu, mixed_precision=mixed_precision)
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != asked:
        raise UserError(
            f"{asked} processes were launched but this one runs in a group of {accelerator.num_processes}; "
            "use a file of configs/launch/, and set ACCELERATE_USE_CPU=true for several processes without a GPU"
        )
    if "ACCELERATE_USE_CPU" in os.environ and not cpu and accelerator.device.type == "cpu":
        raise UserError("the launch settings ask for a GPU and there is none here; use launch: cpu")
    return accelerator
