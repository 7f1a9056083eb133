"""Score every clip of the validation split with the trained model.

`python -m stages.evaluate`: shards, manifests, runs/<dataset>/ -> results/
"""

from pipeline.common.config import load_config
from pipeline.common.errors import exits_with_one_sentence
from pipeline.results.evaluation import evaluate_run, write_evaluation
from pipeline.training.distributed import start_accelerator


@exits_with_one_sentence
def main() -> None:
    config = load_config()
    accelerator = start_accelerator(config, trains=False)
    evaluation = evaluate_run(config, config.run, accelerator)
    if accelerator.is_main_process:
        write_evaluation(evaluation, config.results)
    accelerator.end_training()


if __name__ == "__main__":
    main()
