"""What each stream reaches alone on the demo with the same recipe: validation accuracy of both, of scene, of sound.

Run `.venv/bin/python benchmarks/demo.py` after `dvc repro` has made the demo's shards. It takes some six minutes on two
cores. By construction, neither stream alone can exceed 5/9 = 55.6% (`pipeline/clips/demo_set.py`).
"""

import json
from pathlib import Path

from trainings import SeedTask, train_and_evaluate

from pipeline.common.config import load_config
from pipeline.results.summary import summarize

STREAMS = {"fused": ["scene", "sound"], "scene": ["scene"], "sound": ["sound"]}


def main() -> None:
    print(f"{'variant':8}  {'accuracy':>8}  95% interval    clips  log loss")
    accuracies = {}
    for variant, use in STREAMS.items():
        config = load_config(changes={"recipe.model.use": use})
        seed = config.seeds[0]
        metrics, _ = summarize({seed: train_and_evaluate(SeedTask(Path.cwd(), config, seed, keep_runs=False))})
        accuracies[variant] = round(metrics.accuracy, 4)
        interval = f"{metrics.accuracy_low:.3f} .. {metrics.accuracy_high:.3f}"
        row = f"{variant:8}  {metrics.accuracy:8.3f}  {interval}  {metrics.clips:5}  {metrics.log_loss:8.3f}"
        print(row, flush=True)
    print(json.dumps(accuracies))


if __name__ == "__main__":
    main()
