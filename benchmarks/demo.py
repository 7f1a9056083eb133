"""What each modality reaches alone on the demo with the same recipe: validation accuracy of both, of video, of audio.

Run `.venv/bin/python benchmarks/demo.py` after `dvc repro` has made the demo's shards. It takes some six minutes on two
cores. By construction, neither modality alone can exceed 5/9 = 55.6% (`pipeline/clips/demo_set.py`).
"""

import json
import tempfile
from pathlib import Path

from accelerate import Accelerator

from pipeline.common.config import Config, load_config
from pipeline.results.evaluation import Evaluation, evaluate_run
from pipeline.training.loop import train_model

FUSIONS = {"fused": "cross_attention", "video": "video", "audio": "audio"}


def main() -> None:
    print(f"{'variant':8}  {'accuracy':>8}  95% interval    clips  log loss")
    accuracies = {}
    for variant, fusion in FUSIONS.items():
        metrics = train_and_evaluate(load_config(changes={"recipe.model.fusion": fusion})).metrics
        accuracies[variant] = round(metrics.accuracy, 4)
        interval = f"{metrics.accuracy_low:.3f} .. {metrics.accuracy_high:.3f}"
        row = f"{variant:8}  {metrics.accuracy:8.3f}  {interval}  {metrics.clips:5}  {metrics.log_loss:8.3f}"
        print(row, flush=True)
    print(json.dumps(accuracies))


def train_and_evaluate(config: Config) -> Evaluation:
    """Train from random weights in a temporary folder, and score the validation split."""
    accelerator = Accelerator(cpu=True)
    with tempfile.TemporaryDirectory() as name:
        run_folder = Path(name, "run")
        train_model(config, accelerator, run_folder, Path(name, "checkpoints"))
        return evaluate_run(config, run_folder, accelerator)


if __name__ == "__main__":
    main()
