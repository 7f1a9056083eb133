import io
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from pipeline.errors import UserError
from pipeline.vote import parse_predictions, vote
from stages.vote import read

HEADER = "clip_id,source_id,label,prediction,positive,neutral,negative\n"
A = HEADER + "1_1,1,positive,positive,0.6,0.4,0.0\n1_2,1,neutral,positive,0.5,0.4,0.1\n2_1,2,negative,quarantined,,,\n"
B = HEADER + "1_1,1,positive,neutral,0.4,0.5,0.1\n1_2,1,neutral,neutral,0.1,0.9,0.0\n2_1,2,negative,quarantined,,,\n"


def parsed(**files):
    return [parse_predictions(name, io.StringIO(text)) for name, text in files.items()]


def test_the_soft_vote_is_of_the_mean_probabilities_and_a_quarantined_clip_is_wrong():
    result = vote(parsed(a=A, b=B))
    assert result["runs"] == {"a": pytest.approx(1 / 3), "b": pytest.approx(1 / 3)}
    # .5 and .45 of positive and neutral for the first, .3 and .65 for the second: both right; the third is not scored.
    assert result["soft_vote"] == pytest.approx(2 / 3)
    assert result["clips"] == 3
    assert result["soft_vote_low"] < 2 / 3 < result["soft_vote_high"]


def test_mean_and_deviation_are_over_the_runs():
    result = vote(parsed(a=A, b=B, c=B.replace("0.4,0.5,0.1", "0.6,0.3,0.1")))
    accuracies = list(result["runs"].values())
    assert accuracies == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert result["mean"] == pytest.approx(statistics.mean(accuracies))
    assert result["sd"] == pytest.approx(statistics.stdev(accuracies))


@pytest.mark.parametrize("change", [("1_2", "9_9"), ("1_2,1,neutral", "1_2,1,negative")])
def test_runs_on_other_clips_or_labels_do_not_vote_together(change):
    with pytest.raises(UserError, match="b and a are not about the same clips"):
        vote(parsed(a=A, b=B.replace(*change)))


@pytest.mark.parametrize("text", ["a,b\n1,2\n", HEADER + "1_1,1,happy,positive,0.6,0.4,0.0\n", A[:70], "\x00"])
def test_what_evaluate_did_not_write_is_refused(text):
    with pytest.raises(UserError, match=r"a is not a predictions\.csv|a holds no clips"):
        vote(parsed(a=text))


def test_a_run_has_one_vote():
    with pytest.raises(UserError, match="the same run is named twice"):
        vote([*parsed(a=A), *parsed(a=A)])


def test_experiments_are_read_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.test")
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    git("init", "--quiet")
    subprocess.run([Path(sys.executable).with_name("dvc"), "init", "--quiet"], check=True)
    (tmp_path / "results").mkdir()
    for name, text in {"exp-a": A, "exp-b": B}.items():
        (tmp_path / "results/predictions.csv").write_text(text)
        git("add", "--all")
        git("commit", "--quiet", "--message", name)
        git("branch", name)
    assert vote([read("exp-a"), read("exp-b")])["soft_vote"] == pytest.approx(2 / 3)


def test_the_command_reads_files_and_says_what_it_cannot_find(tmp_path):
    (tmp_path / "a.csv").write_text(A)
    command = [sys.executable, "-m", "stages.vote", str(tmp_path / "a.csv")]
    said = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert json.loads(said.stdout)["sd"] is None
    said = subprocess.run([*command, "no-such-experiment"], capture_output=True, text=True, cwd=REPOSITORY)
    assert said.returncode == 2
    assert said.stderr.startswith("error: no-such-experiment is neither a file nor an experiment")
    assert "Traceback" not in said.stderr
