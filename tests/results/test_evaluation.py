"""The result of a run: every clip once, intervals, what it comes from, and the page that shows it."""

import csv
import json
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY

from pipeline.clips.labels import CLASSES
from pipeline.common.config import Config
from pipeline.common.errors import UserError
from pipeline.common.metrics import NOT_SCORED
from pipeline.results.evaluation import (
    against_the_paper,
    load_run,
    measured,
    reliability_rows,
    source_rows,
    write_evaluation,
)
from pipeline.results.predictions import Predictions, parse_predictions, write_predictions
from pipeline.results.report import render_report
from pipeline.results.tables import read_table, write_table


@pytest.fixture(scope="module")
def evaluated(finished):
    """A result, and the folder of its run and of what was written of it. Read only."""
    run, evaluation = finished
    write_evaluation(evaluation, run.parent / "results")
    return evaluation, run.parent


@pytest.fixture
def predictions():
    """120 clips of 12 sources, of which one was quarantined; about two thirds are right."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    probabilities = rng.dirichlet(np.ones(3), 120) + 0.7 * np.eye(3)[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    answers = probabilities.argmax(axis=1)
    answers[7], probabilities[7] = NOT_SCORED, np.nan
    sources = [str(source) for source in np.repeat(np.arange(12), 10)]
    return Predictions([f"{i}_1" for i in range(120)], sources, labels, answers, probabilities)


def test_every_val_clip_is_in_the_result_once_and_a_quarantined_one_is_wrong(evaluated, workspace):
    evaluation, _ = evaluated
    found = evaluation.predictions
    assert sorted(found.clip_ids) == sorted(path.stem for path in (workspace[0] / "data/demo/Val").iterdir())
    assert (evaluation.metrics["clips"], evaluation.metrics["scored"]) == (9, 8)
    assert (found.predictions == NOT_SCORED).sum() == 1
    assert evaluation.metrics["accuracy"] == (found.predictions == found.labels).sum() / 9
    assert evaluation.metrics["quarantined_share"] == pytest.approx(1 / 9)


def test_a_result_says_what_it_comes_from(evaluated, workspace):
    evaluation, folder = evaluated
    metrics = json.loads((folder / "results/metrics.json").read_text())
    assert metrics["selected_on"] == "dev"
    assert metrics["label_sha256"] == evaluation.provenance["data"]["val"]["label_sha256"]
    assert metrics["reproduced"] == "not applicable"
    run = json.loads((folder / "results/provenance.json").read_text())["run"]
    assert Config.model_validate(run["config"]) == workspace[1]
    assert {"code_version", "libraries", "device", "seconds", "identity"} <= run.keys()


def test_a_run_of_another_recipe_is_not_evaluated(evaluated, workspace):
    other = workspace[1].model_copy(update={"seed": 3})
    with pytest.raises(UserError, match=r"another seed than params\.yaml says"):
        load_run(other, evaluated[1] / "run")


def test_what_is_written_is_what_is_read(predictions, tmp_path):
    write_predictions(predictions, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        read = parse_predictions("p.csv", file)
    assert (read.clip_ids, read.source_ids) == (predictions.clip_ids, predictions.source_ids)
    np.testing.assert_array_equal(read.labels, predictions.labels)
    np.testing.assert_array_equal(read.predictions, predictions.predictions)
    np.testing.assert_allclose(read.probabilities, predictions.probabilities, atol=1e-6)


def test_every_measure_lies_in_its_interval(predictions):
    measures, classes = measured(predictions)
    for row, names in (
        (measures, ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error")),
        *((row, ("precision", "recall", "f1")) for row in classes),
    ):
        for name in names:
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"], name
    assert measures["accuracy_sources_low"] < measures["accuracy"] < measures["accuracy_sources_high"]
    assert [row["class"] for row in classes] == list(CLASSES)
    assert sum(row["clips"] for row in classes) == measures["clips"] == 120


def test_clips_of_a_source_that_fare_alike_widen_the_interval_over_sources(predictions):
    """Whole sources right or wrong: the interval that takes clips as independent is then too narrow."""
    answers = np.where(np.arange(120) < 70, predictions.labels, (predictions.labels + 1) % 3)
    alike = Predictions(predictions.clip_ids, predictions.source_ids, predictions.labels, answers, np.eye(3)[answers])
    measures, _ = measured(alike)
    wilson, sources = (measures[f"{name}_high"] - measures[f"{name}_low"] for name in ("accuracy", "accuracy_sources"))
    assert sources > 2 * wilson


def test_what_is_not_defined_is_none_and_not_a_number(predictions):
    nothing = np.full((120, 3), np.nan)
    none = Predictions(predictions.clip_ids, ["1"] * 120, predictions.labels, np.full(120, NOT_SCORED), nothing)
    measures, classes = measured(none)
    assert measures["accuracy"] == 0
    assert [measures[name] for name in ("log_loss", "calibration_error", "macro_f1_low")] == [None] * 3
    assert reliability_rows(none) == []
    json.dumps([measures, classes], allow_nan=False)


def test_the_most_confident_mistakes_are_shown_and_no_right_clip(evaluated):
    evaluation, folder = evaluated
    found = evaluation.predictions
    wrong = (found.predictions != found.labels) & (found.predictions != NOT_SCORED)
    confidence = dict(zip(found.clip_ids, found.probabilities.max(axis=1), strict=True))
    expected = sorted(np.array(found.clip_ids)[wrong], key=lambda clip_id: -confidence[clip_id])
    assert expected
    assert list(evaluation.mistakes) == expected
    files = sorted((folder / "results/mistakes").iterdir())
    assert [file.stem.partition("-")[2] for file in files] == expected
    assert all(cv2.imread(str(file)).shape[1] == 700 for file in files)
    page = render_report(folder / "results", folder / "run")
    assert page.count("<img") == page.count('src="data:image/jpeg;base64,') == len(expected)


def test_sources_are_listed_from_the_worst_to_the_best(predictions):
    rows = source_rows(predictions)
    assert len(rows) == 12
    assert sum(row["clips"] for row in rows) == 120
    assert [row["accuracy"] for row in rows] == sorted(row["accuracy"] for row in rows)
    right = predictions.labels == predictions.predictions
    assert rows[0]["accuracy"] == min(right.reshape(12, 10).mean(axis=1))
    assert np.average([row["accuracy"] for row in rows], weights=[row["clips"] for row in rows]) == right.mean()


VGAF_VAL = {"clips": 766, "sources": 65}


@pytest.mark.parametrize(("summary", "high", "said"), [
    (VGAF_VAL, 0.6037, True),
    (VGAF_VAL, 0.60369, False),  # never by rounding
    ({"clips": 765, "sources": 65}, 0.9, "not applicable"),
    ({"clips": 766, "sources": 64}, 0.9, "not applicable"),
])  # fmt: skip
def test_the_paper_is_reproduced_by_the_interval_on_vgafs_validation_split_alone(config, summary, high, said):
    recorded = config.model_copy(update={"dataset": config.dataset.model_copy(update={"synthesize": {}})})
    assert against_the_paper(recorded, summary, {"accuracy_high": high}) == {"reproduced": said}
    assert against_the_paper(config, summary, {"accuracy_high": high}) == {"reproduced": "not applicable"}  # drawn


def test_the_report_is_one_page_that_asks_for_nothing(evaluated):
    evaluation, folder = evaluated
    page = render_report(folder / "results", folder / "run")
    for forbidden in ("<script", "<link", 'src="http', "@import", "url(http"):
        assert forbidden not in page
    assert f"{100 * evaluation.metrics['accuracy']:.2f}%" in page
    assert page.count("<svg") == 3
    assert evaluation.provenance["quarantined"][0]["clip_id"] in page
    assert "5/9" in page
    assert "no reproduction of the paper" in page
    (row,) = [row for row in csv.DictReader((folder / "results/per_class.csv").open()) if row["class"] == "neutral"]
    assert f"{float(row['recall']):.3f}" in page


@pytest.mark.parametrize(("reproduced", "said"), [(True, "interval: reproduced"), (False, "interval: not reproduced")])
def test_the_report_says_whether_the_paper_is_reproduced(evaluated, reproduced, said, tmp_path):
    evaluation, folder = evaluated
    changed = type(evaluation)(**(vars(evaluation) | {"metrics": evaluation.metrics | {"reproduced": reproduced}}))
    write_evaluation(changed, tmp_path)
    assert said in render_report(tmp_path, folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize("width_px", [1280, 390])
def test_a_browser_shows_the_report_without_a_network_an_error_or_a_sideways_scroll(evaluated, width_px, tmp_path):
    if not (browser := shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("needs Chromium")
    page = render_report(evaluated[1] / "results", evaluated[1] / "run")
    assert look_at(page, width_px, browser, tmp_path) == ([], set(), True)
    bad = '<img src="https://images.test/a.png"><script>console.error("no")</script><p style="width: 9000px">wide'
    said, asked, fits = look_at(page.replace("<h1>", f"{bad}<h1>"), width_px, browser, tmp_path)  # it would be seen
    assert '"no"' in said[0]
    assert (asked, fits) == ({"images.test"}, False)


def test_plots_are_drawn_without_a_network(tmp_path):
    if not (browser := shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("needs Chromium")
    if not (REPOSITORY / ".venv/vega.js").exists():
        pytest.skip("needs the environment that make sets up")
    (tmp_path / ".venv").symlink_to(REPOSITORY / ".venv")
    (tmp_path / "dvc_plots").mkdir()
    template = (REPOSITORY / ".dvc/plots.html").read_text()
    spec = {"data": {"values": [{"x": 1}]}, "mark": "point", "encoding": {"x": {"field": "x", "type": "quantitative"}}}
    plot = f'<div id="plot"></div><script>vegaEmbed("#plot", {json.dumps(spec)})</script>'
    page = template.replace("{refresh_tag}", "").replace("{plot_divs}", plot)
    said, asked, fits = look_at(page, 1280, browser, tmp_path / "dvc_plots")
    assert ([line for line in said if "Error" in line], asked, fits) == ([], set(), True)
    said, _, _ = look_at(page.replace("vega.js", "nothing.js"), 1280, browser, tmp_path / "dvc_plots")
    assert "vegaEmbed is not defined" in said[-1]


def look_at(page, width_px, browser, folder):
    """What a browser says on its console, the hosts that the page asks for, and whether it is as wide as the window."""
    measure = "<script>document.title = document.documentElement.scrollWidth <= window.innerWidth</script>"
    (folder / "page.html").write_text(page + measure)
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=2000"),
        *(f"--user-data-dir={folder}/profile", f"--log-net-log={folder}/net.json", f"--window-size={width_px},900"),
    )
    command = [browser, *options, "--dump-dom", (folder / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    asked = set(re.findall(r'"url":"https?://([^/"]+)', (folder / "net.json").read_text()))
    own = {host for host in asked if host.endswith((".google.com", ".gvt1.com"))}  # the browser's, not the page's
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return said, asked - own, "<title>true</title>" in done.stdout


def test_the_names_of_sources_are_names(tmp_path):
    rows = [{"source_id": name, "clips": 3, "accuracy": None} for name in ("12_3", "007", "nan")]
    write_table(rows, list(rows[0]), tmp_path / "per_source.csv")
    assert read_table(tmp_path / "per_source.csv") == rows
