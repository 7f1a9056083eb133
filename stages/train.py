"""Train the model on the shards.

`accelerate launch --config_file configs/accelerate/<launch>.yaml -m stages.train`: shards, manifests -> runs/<dataset>/

Killed or stopped, the same command goes on where the last checkpoint was. Exit codes: 0 done; 2 something to mend; 75
stopped by SIGTERM, saved; 130 Ctrl-C. (`accelerate launch` itself ends with 1 whatever its processes end with.)
"""

import argparse
from typing import get_args

from pipeline.common.errors import Stopped, exits_with_one_sentence
from pipeline.common.machine import end_with_launcher


@exits_with_one_sentence
def main() -> None:
    end_with_launcher()
    # Only now: these take seconds, in which the launcher may be told to stop.
    from pipeline.common.config import load_config
    from pipeline.training.checkpoint import Resume
    from pipeline.training.distributed import start_accelerator
    from pipeline.training.loop import run_training

    parser = argparse.ArgumentParser(prog="python -m stages.train", description="Train the model on the shards.")
    parser.add_argument(
        "--resume",
        choices=get_args(Resume),
        default="exact",
        help="what to do with the checkpoint of an unfinished run. exact: go on if nothing changed (default); "
        "changed: go on with what changed; afresh: remove it",
    )
    arguments = parser.parse_args()
    config = load_config()
    accelerator = start_accelerator(config)
    try:
        run_training(config, accelerator, config.run, config.checkpoints, arguments.resume)
    except Stopped:
        accelerator.end_training()  # the trackers write what they still hold
        raise
    accelerator.end_training()


if __name__ == "__main__":
    main()
