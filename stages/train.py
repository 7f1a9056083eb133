"""Train the model on the shards.

`accelerate launch --config_file configs/launch/<launch>.yaml -m stages.train`: shards, manifests -> runs/<dataset>/
"""

from pathlib import Path

from pipeline.config import load_config
from pipeline.distributed import start_accelerator
from pipeline.errors import exits_with_one_sentence
from pipeline.training import run_training


@exits_with_one_sentence
def main() -> None:
    config = load_config()
    accelerator = start_accelerator(config.recipe.training.mixed_precision)
    run_training(config, accelerator, config.run, checkpoints=Path("checkpoints"))
    accelerator.end_training()


if __name__ == "__main__":
    main()
