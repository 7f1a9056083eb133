"""Break the code in one place at a time, and see that a test fails: mutations of the rules that results depend on.

    .venv/bin/python tests/mutations.py [--most N]

It works on a copy. First the tests must pass as the code is; then each mutation, applied alone, must make one of them
fail. It takes some ten minutes on two cores, and ends with 1 if a mutation is not noticed, or if its line is no longer
in the code.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PASSED, FAILED = 0, 1  # exit codes of pytest


@dataclass(frozen=True)
class Mutation:
    """What a broken rule would do, the file that states the rule, its line and what replaces it, and the tests."""

    breaks: str
    file: str
    line: str
    replacement: str
    tests: str


FUSION, MODEL, OBJECTIVE = "models/fusion.py", "models/model.py", "training/objective.py"
SAMPLING, PEOPLE, SPLITS = "loading/sampling.py", "loading/people.py", "clips/splits.py"
MUTATIONS = [
    # streams and their fusion
    Mutation(
        "a stream attends to its own tokens too",
        "models/attention_blocks.py",
        "torch.cat([*parts[:number], *parts[number + 1 :]], dim=1)",
        "torch.cat(list(parts), dim=1)",
        "models/test_fusion.py",
    ),
    Mutation(
        "late fusion averages over streams that a clip lacks",
        FUSION,
        "return (logits * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True)",
        "return logits.mean(dim=1)",
        "models/test_fusion.py",
    ),
    Mutation(
        "a clip without a stream has nothing that the others could attend to",
        FUSION,
        "torch.cat([torch.zeros_like(padding[:, :1]), padding], 1)",
        "torch.cat([padding[:, :1], padding], 1)",
        "models/test_model.py",
    ),
    Mutation(
        "the last stream of a clip is hidden too",
        MODEL,
        "(hidden[name] & has_any)[:, None]",
        "hidden[name][:, None]",
        "models/test_model.py",
    ),
    Mutation(
        "a stream takes the first of successive frames, not the middle one",
        MODEL,
        "return slice(step // 2, None, step)",
        "return slice(0, None, step)",
        "training/test_four_streams.py",
    ),
    # the loss of each stream alone
    Mutation(
        "a stream learns from clips that lack it",
        OBJECTIVE,
        "losses = self.losses(logits, batch.labels) * present",
        "losses = self.losses(logits, batch.labels)",
        "training/test_objective.py",
    ),
    Mutation(
        "without a stream loss, the networks learn from it all the same",
        OBJECTIVE,
        "head(mean if learns else mean.detach())",
        "head(mean)",
        "training/test_objective.py",
    ),
    Mutation(
        "a stream is measured by its padding too",
        OBJECTIVE,
        "weights = (~tokens.padding).to(tokens.values.dtype)[..., None]",
        "weights = torch.ones_like(tokens.padding).to(tokens.values.dtype)[..., None]",
        "training/test_objective.py",
    ),
    # P21: what is trained is what is evaluated, on any number of processes
    Mutation(
        "BatchNorm's statistics are those of all clips that a process has",
        "models/batch_norm.py",
        "torch.split(clips, size)",
        "torch.split(clips, len(clips))",
        "models/test_batch_norm.py",
    ),
    Mutation(
        "each process keeps running statistics of its own",
        "training/step_statistics.py",
        "if accelerator.num_processes > 1:",
        "if accelerator.num_processes > 2:",
        "training/test_distributed.py -m slow",
    ),
    Mutation(
        "the weights of the last step are scored, not their moving average",
        "training/setup.py",
        "return average.module if average else self.state.model",
        "return self.state.model",
        "training/test_loop.py",
    ),
    Mutation(
        "frozen networks move their running statistics",
        MODEL,
        "            self.networks.eval()\n",
        "            pass\n",
        "training/test_setup.py",
    ),
    # frames and views
    Mutation(
        "each training step takes the same frames",
        SAMPLING,
        "self.starts + rng.integers(self.lengths, size=(clips, self.used))",
        "self.starts + 0 * rng.integers(self.lengths, size=(clips, self.used))",
        "loading/test_sampling.py",
    ),
    Mutation(
        "all views have the same frames",
        SAMPLING,
        "view // 2 * self.lengths",
        "0 * self.lengths",
        "loading/test_sampling.py",
    ),
    Mutation(
        "no view is mirrored",
        SAMPLING,
        "return batch.mirrored() if view % 2 else batch",
        "return batch",
        "loading/test_sampling.py",
    ),
    # people
    Mutation(
        "a mirrored face keeps its box",
        PEOPLE,
        "[1 - self.boxes[..., :1], self.boxes[..., 1:]]",
        "[self.boxes[..., :1], self.boxes[..., 1:]]",
        "loading/test_people_in_batches.py",
    ),
    Mutation(
        "a face of the batch before stays in an empty place",
        PEOPLE,
        "crops[place, rank] = crops[tuple(filled[turn % len(filled)])] if filled else 0",
        "pass",
        "loading/test_people_in_batches.py",
    ),
    Mutation(
        "a place without a face is a token",
        MODEL,
        "~batch.people.present.flatten(1), batch",
        "torch.zeros_like(batch.people.present.flatten(1)), batch",
        "training/test_four_streams.py",
    ),
    Mutation(
        "the place and the size of a face do not matter",
        FUSION,
        "values = values + self.boxes(tokens.boxes.to(values.dtype)).unsqueeze(-2)",
        "pass",
        "training/test_four_streams.py",
    ),
    Mutation(
        "the smallest faces of a frame are kept",
        "extraction/people.py",
        "np.argsort(-rows[:, 2] * rows[:, 3]",
        "np.argsort(rows[:, 2] * rows[:, 3]",
        "extraction/test_people.py",
    ),
    # folds and dev
    Mutation(
        "the clips of a fold are fitted on too",
        SPLITS,
        "for chosen in (parts != part, parts == part)",
        "for chosen in (parts >= 0, parts == part)",
        "clips/test_roles.py",
    ),
    Mutation(
        "the clips of a source lie in several folds",
        SPLITS,
        "splitter.split(labels, labels, sources)",
        "splitter.split(labels, labels, range(len(labels)))",
        "clips/test_roles.py",
    ),
    Mutation(
        "dev moves with the training's seed",
        SPLITS,
        "config.recipe.training.dev_fraction, config.split_seed",
        "config.recipe.training.dev_fraction, config.seeds[0]",
        "clips/test_roles.py",
    ),
    # P23: clips that should not be trusted are named
    Mutation(
        "a recording may be in train and in val",
        "clips/identical.py",
        "[group for group in identical if group.train and group.val]",
        "[group for group in identical if group.train and not group.train]",
        "clips/test_identical.py",
    ),
    Mutation(
        "a muted clip is not noticed",
        "extraction/suspicion.py",
        "SILENT_PEAK = 1e-4",
        "SILENT_PEAK = 0.0",
        "extraction/test_suspicion.py",
    ),
    # P24: nothing overwrites the runs of another training
    Mutation(
        "a run gives way to the next one and is lost",
        "training/finished_runs.py",
        "        keep_run(folder, store)\n    for path in",
        "        pass\n    for path in",
        "training/test_finished_runs.py",
    ),
    Mutation(
        "the runs of all folds lie in one folder",
        "common/config.py",
        'return seed if self.fold is None else seed / f"fold-{self.fold}"',
        "return seed",
        "training/test_finished_runs.py",
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--most", type=int, default=os.cpu_count(), metavar="N", help="so many at once (all cores)")
    with ThreadPoolExecutor(parser.parse_args().most) as pool, tempfile.TemporaryDirectory() as folder:
        suites = sorted({mutation.tests for mutation in MUTATIONS})
        for suite, code in zip(suites, pool.map(partial(run_tests, REPOSITORY), suites), strict=True):
            if code != PASSED:
                sys.exit(f"error: the tests {suite} do not pass as the code is (pytest ends with {code})")
        unnoticed = 0
        for mutation, noticed in zip(MUTATIONS, pool.map(partial(is_noticed, Path(folder)), MUTATIONS), strict=True):
            print(f"{'noticed' if noticed else 'NOT NOTICED'}: {mutation.breaks}", flush=True)
            unnoticed += not noticed
    print(f"{len(MUTATIONS) - unnoticed} of {len(MUTATIONS)} mutations make a test fail")
    sys.exit(unnoticed > 0)


def is_noticed(folder: Path, mutation: Mutation) -> bool:
    """Whether the tests of a mutation fail in a copy of the project with the mutation. `folder` is for the copies."""
    copy = folder / str(MUTATIONS.index(mutation))
    files = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    for name in files.splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, copy / name)
    path = copy / "pipeline" / mutation.file
    text = path.read_text()
    if text.count(mutation.line) != 1:
        sys.exit(f"error: {mutation.file} has {text.count(mutation.line)} times, expected once: {mutation.line}")
    path.write_text(text.replace(mutation.line, mutation.replacement))
    return run_tests(copy, mutation.tests) == FAILED


def run_tests(folder: Path, suite: str) -> int:
    """The exit code of pytest in a copy of the project, for some files and folders of `tests/` with their options."""
    words = [word if word.startswith("-") or word == "slow" else f"tests/{word}" for word in suite.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *words]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode


if __name__ == "__main__":
    main()
