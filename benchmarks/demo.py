"""What each modality can reach alone on the demo, with the same recipe: validation accuracy of fused, video, audio.

`.venv/bin/python benchmarks/demo.py`, after `dvc repro` has made the demo's shards (some six minutes on two cores). By
construction neither modality alone can exceed 5/9 = 55.6% (`pipeline/clips/demo_set.py`).
"""

import json
import tempfile
from pathlib import Path

from accelerate import Accelerator

from pipeline.common.config import Config, load_config
from pipeline.results.evaluation import evaluate_run
from pipeline.training.loop import run_training

VARIANTS = {"fused": "cross_attention", "video": "video", "audio": "audio"}


def main() -> None:
    config = load_config()
    print(f"{'variant':8}  {'accuracy':>8}  95% interval    clips  log loss")
    accuracies = {}
    for name, fusion in VARIANTS.items():
        metrics = train_and_evaluate(with_fusion(config, fusion))
        accuracies[name] = round(metrics["accuracy"], 4)
        interval = f"{metrics['accuracy_low']:.3f} .. {metrics['accuracy_high']:.3f}"
        print(
            f"{name:8}  {metrics['accuracy']:8.3f}  {interval}  {metrics['clips']:5}  {metrics['log_loss']:8.3f}",
            flush=True,
        )
    print(json.dumps(accuracies))


def with_fusion(config: Config, fusion: str) -> Config:
    """The same settings with another fusion."""
    values = config.model_dump()
    values["recipe"]["model"]["fusion"] = fusion
    return Config.model_validate(values)


def train_and_evaluate(config: Config) -> dict[str, float]:
    """Train from nothing in a temporary folder, and score the validation split."""
    accelerator = Accelerator(cpu=True)
    with tempfile.TemporaryDirectory() as folder:
        run_training(config, accelerator, Path(folder, "run"), checkpoints=Path(folder, "checkpoints"))
        return evaluate_run(config, Path(folder, "run"), accelerator).metrics


if __name__ == "__main__":
    main()
