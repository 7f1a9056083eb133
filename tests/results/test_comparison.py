"""Several results on the same clips: `python -m stages.vote` and `python -m stages.compare`."""

import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from random_predictions import several_seeds

from pipeline.common.errors import UserError
from pipeline.common.records import parse_record
from pipeline.results.comparison import Result, compare, read_results, vote
from pipeline.results.result_files import Metrics

HEADER = "seed,fold,clip_id,source_id,label,prediction,positive,neutral,negative\n"
QUARANTINED = "0,,2_1,2,negative,quarantined,,,\n"
A = HEADER + "0,,1_1,1,positive,positive,0.6,0.4,0.0\n0,,1_2,1,neutral,positive,0.5,0.4,0.1\n" + QUARANTINED
B = HEADER + "0,,1_1,1,positive,neutral,0.4,0.5,0.1\n0,,1_2,1,neutral,neutral,0.1,0.9,0.0\n" + QUARANTINED
MEASURES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier_score", "accuracy_sources")
NOT_THERE = (
    "temperature",
    "log_loss_scaled",
    "calibration_error_scaled",
    "soft_vote",
    "weighted_vote",
    "soup",
    "folds",
)
METRICS = {
    **{f"{name}{end}": 0.5 for name in MEASURES for end in ("", "_low", "_high")},
    "calibration_error": 0.5,
    **{f"{name}_sd": None for name in (*MEASURES[:-1], "calibration_error")},
    **dict.fromkeys(NOT_THERE),
    "seeds": [],
    "clips": 3,
    "scored": 2,
    "quarantined_share": 1 / 3,
    "reproduced": "not applicable",
    "selected_on": "dev",
    "selection_accuracy": None,
    "label_sha256": "ab",
    "code_version": "cd",
}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Writes results by name, and reads them."""
    monkeypatch.chdir(tmp_path)

    def results(**texts):
        for name, text in texts.items():
            Path(name).mkdir()
            Path(name, "predictions.csv").write_text(text)
            Path(name, "metrics.json").write_text(json.dumps(METRICS))
        return read_results(texts)

    return results


def accuracies(record):
    return {name: run.accuracy for name, run in record.runs.items()}


def test_the_soft_vote_takes_the_mean_probabilities_and_a_quarantined_clip_is_wrong(results):
    voted = vote(results(a=A, b=B))
    assert accuracies(voted) == {"a": pytest.approx(1 / 3), "b": pytest.approx(1 / 3)}
    # .5 and .45 of positive and neutral for the first, .3 and .65 for the second: both right; the third is not scored.
    assert voted.soft_vote == pytest.approx(2 / 3)
    assert voted.clips == 3
    assert voted.soft_vote_low < 2 / 3 < voted.soft_vote_high


def test_mean_and_deviation_are_over_the_runs(results):
    voted = vote(results(a=A, b=B, c=B.replace("positive,neutral,0.4,0.5,0.1", "positive,positive,0.6,0.3,0.1")))
    assert list(accuracies(voted).values()) == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert voted.mean == pytest.approx(4 / 9)
    assert voted.sd == pytest.approx(statistics.stdev([1 / 3, 1 / 3, 2 / 3]))


def test_the_records_name_what_each_run_comes_from(results):
    read = results(a=A, b=B)
    for record in (vote({"a": read["a"]}), compare(read)):
        run = record.runs["a"]
        assert (run.seeds, run.selected_on, run.label_sha256, run.code_version) == ([0], "dev", "ab", "cd")


def test_a_single_run_has_no_deviation_and_a_single_source_no_interval(results):
    assert vote(results(a=A)).sd is None
    one_source = HEADER + "0,,1_1,1,positive,positive,0.6,0.4,0.0\n"
    comparison = compare(results(b=one_source, c=one_source.replace("0.6,0.4", "0.7,0.3")))
    assert (comparison.difference_low, comparison.difference_high) == (None, None)


def test_two_runs_are_compared_clip_by_clip(results):
    """Ten sources of four clips; the second run is wrong on three clips of each, and the first on none."""
    rows = [f"0,,{source}_{clip},{source},neutral" for source in range(10) for clip in range(4)]
    right, wrong = ",neutral,0.1,0.8,0.1", ",positive,0.8,0.1,0.1"
    first = HEADER + "".join(row + right + "\n" for row in rows)
    second = HEADER + "".join(row + (right if "_0," in row else wrong) + "\n" for row in rows)
    comparison = compare(results(first=first, second=second))
    assert accuracies(comparison) == {"first": 1.0, "second": 0.25}
    assert (comparison.difference, comparison.difference_low, comparison.difference_high) == (0.75, 0.75, 0.75)
    assert (comparison.only_first_right, comparison.only_second_right) == (30, 0)
    assert comparison.mcnemar_p == pytest.approx(2 / 2**30)


def result_of(*seeds, first_seed=0):
    """A result of several seeds, numbered from `first_seed`."""
    metrics = parse_record(Metrics, json.dumps(METRICS))
    return Result(dict(enumerate(seeds, start=first_seed)), metrics)


def test_a_vote_pools_the_seeds_of_all_results():
    first, second, third = several_seeds(3)
    voted = vote({"a": result_of(first, second), "b": result_of(third)})
    shares = [each.right.mean() for each in (first, second, third)]
    assert voted.mean == pytest.approx(np.mean(shares))
    assert voted.sd == pytest.approx(np.std(shares, ddof=1))
    assert accuracies(voted) == {"a": pytest.approx(np.mean(shares[:2])), "b": shares[2]}
    assert voted.runs["a"].accuracy_sd == pytest.approx(np.std(shares[:2], ddof=1))
    assert (voted.runs["a"].seeds, voted.runs["b"].accuracy_sd) == ([0, 1], None)
    mean = np.nan_to_num(np.mean([each.probabilities for each in (first, second, third)], axis=0), nan=-1.0)
    right = (mean.argmax(axis=1) == first.labels) & first.scored
    assert voted.soft_vote == right.mean() != shares[2]


def test_results_differ_by_their_mean_accuracies_over_seeds_with_an_interval_over_sources():
    first, second = several_seeds(3), several_seeds(5)[3:]
    wrong = np.repeat(np.arange(12) < 4, 10)  # whole sources are wrong together
    second = [
        dataclasses.replace(each, predicted=np.where(wrong & each.scored, (each.labels + 1) % 3, each.predicted))
        for each in second
    ]
    comparison = compare({"first": result_of(*first), "second": result_of(*second)})
    shares = [np.mean([each.right for each in seeds], axis=0) for seeds in (first, second)]
    assert comparison.difference == pytest.approx(shares[0].mean() - shares[1].mean())
    by_source = (shares[0] - shares[1]).reshape(12, 10).mean(axis=1)  # sources of ten clips each
    draws = by_source[np.random.default_rng(1).integers(12, size=(20000, 12))].mean(axis=1)
    interval = (comparison.difference_low, comparison.difference_high)
    assert interval == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)


def test_mcnemars_test_is_of_the_votes_of_the_seeds():
    first, second = several_seeds(3), several_seeds(5)[3:]
    comparison = compare({"first": result_of(*first), "second": result_of(*second)})
    votes = [np.nan_to_num(np.mean([each.probabilities for each in seeds], axis=0)) for seeds in (first, second)]
    right = [(mean.argmax(axis=1) == first[0].labels) & first[0].scored for mean in votes]
    assert comparison.only_first_right == (right[0] & ~right[1]).sum()
    assert comparison.only_second_right == (right[1] & ~right[0]).sum()


def test_the_interval_over_seeds_is_students_of_the_seeds_that_both_have():
    first, second = several_seeds(4), several_seeds(8)[4:]
    comparison = compare({"first": result_of(*first), "second": result_of(*second, first_seed=1)})
    pairs = [a.right.mean() - b.right.mean() for a, b in zip(first[1:], second[:3], strict=True)]
    expected = scipy.stats.t.interval(0.95, 2, loc=np.mean(pairs), scale=scipy.stats.sem(pairs))
    assert (comparison.seeds_low, comparison.seeds_high) == pytest.approx(expected)


def test_fewer_than_two_common_seeds_have_no_interval():
    first, second = several_seeds(4)[:2], several_seeds(4)[2:]
    for start in (1, 2):  # one seed in common, and none
        comparison = compare({"first": result_of(*first), "second": result_of(*second, first_seed=start)})
        assert (comparison.seeds_low, comparison.seeds_high) == (None, None)


@pytest.mark.parametrize("change", [("1_2", "9_9"), ("1_2,1,neutral", "1_2,1,negative")])
@pytest.mark.parametrize("together", [vote, compare])
def test_runs_on_other_clips_or_labels_are_refused(results, together, change):
    with pytest.raises(UserError, match=r"^seed 0 of b and seed 0 of a are not about the same clips"):
        together(results(a=A, b=B.replace(*change)))


def test_seeds_of_one_result_that_are_about_other_clips_are_named(results):
    second = B.partition("\n")[2].replace("0,,", "3,,").replace("1_2", "9_9")
    with pytest.raises(UserError, match=r"^seed 3 of a and seed 0 of a are not about .* evaluate all its seeds again$"):
        vote(results(a=A + second))


@pytest.mark.parametrize("together", [vote, compare])
def test_runs_with_other_classes_are_refused(results, together):
    other = A.replace("neutral,negative\n", "negative,neutral\n")
    with pytest.raises(
        UserError, match="b has the classes positive, negative, neutral, and seed 0 of a positive, neutral, neg"
    ):
        together(results(a=A, b=other))


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", HEADER + "1_1,1,happy,positive,0.6,0.4,0.0\n", A[:70], "\x00"])
def test_a_table_that_evaluate_did_not_write_is_refused(results, text):
    with pytest.raises(UserError, match=r"^a is not a predictions\.csv|^a lists no clip"):
        results(a=text)


def test_a_line_break_in_the_name_of_a_source_ends_no_row(results):
    ((_, read),) = results(a=HEADER + "0,,1_1,1\u2028b,neutral,neutral,0.1,0.8,0.1\n").items()
    assert read.predictions[0].source_ids == ["1\u2028b"]


def test_a_folder_without_a_result_is_refused(results):
    results(a=A)
    Path("a/metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"^a has no metrics\.json that this version wrote .*; evaluate again$"):
        read_results(["a"])
    Path("a/metrics.json").unlink()
    with pytest.raises(UserError, match=r"a has no metrics\.json; name a folder that evaluate wrote"):
        read_results(["a"])


def test_a_run_has_one_vote(results):
    results(a=A)
    with pytest.raises(UserError, match="a is named twice"):
        read_results(["a", "a"])
    shutil.copytree("a", "same")
    with pytest.raises(UserError, match="a and same hold the same predictions; name each result once"):
        read_results(["a", "same"])


def test_a_seed_has_one_vote_whatever_the_results_that_hold_it(results):
    rows = A.removeprefix(HEADER)
    with pytest.raises(UserError, match="a and both hold the same predictions"):
        results(a=A, both=B + "".join(f"1{row[1:]}\n" for row in rows.splitlines()))


@pytest.mark.slow
def test_experiments_are_read_by_name(results, tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.test")
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    git("init", "--quiet")
    subprocess.run([Path(sys.executable).with_name("dvc"), "init", "--quiet"], check=True)
    for name, text in {"exp-a": A, "exp-b": B}.items():
        results(results=text)
        git("add", "--all")
        git("commit", "--quiet", "--message", name)
        git("branch", name)
        git("rm", "-r", "--quiet", "results")
    assert vote(read_results(["exp-a", "exp-b"])).soft_vote == pytest.approx(2 / 3)


@pytest.mark.parametrize(("name", "keys"), [
    ("vote", ["runs", "mean", "sd", "soft_vote", "soft_vote_low", "soft_vote_high", "clips"]),
    ("compare", ["runs", "difference", "difference_low", "difference_high", "seeds_low", "seeds_high",
                 "only_first_right", "only_second_right", "mcnemar_p", "clips"]),
])  # fmt: skip
def test_the_commands_read_folders_and_print_json(stage, name, keys, results, tmp_path):
    results(a=A, b=B)
    printed = json.loads(stage(name, tmp_path / "a", tmp_path / "b").stdout)
    assert list(printed) == keys
    assert printed["clips"] == 3
    (run, _) = printed["runs"].values()
    assert list(run) == ["accuracy", "accuracy_sd", "seeds", "selected_on", "label_sha256", "code_version"]


@pytest.mark.parametrize("name", ["vote", "compare"])
def test_the_commands_name_a_result_that_does_not_exist(stage, name, results, tmp_path):
    results(a=A)
    process = stage(name, tmp_path / "a", "no-such-experiment")
    assert process.returncode == 2
    assert process.stderr.startswith("error: no-such-experiment is neither a folder nor an experiment")
