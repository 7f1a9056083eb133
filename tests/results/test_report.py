"""The report: one page that shows a result and needs no network."""

import dataclasses
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from helpers import REPOSITORY, in_folders, write_whole_result
from matplotlib.figure import Figure

from pipeline.common.config import RunId
from pipeline.common.errors import UserError
from pipeline.models.run_record import InitialWeights, LoadedWeights
from pipeline.results.figures import draw_gradient_norms, draw_stream_accuracies
from pipeline.results.predictions import with_probabilities
from pipeline.results.report import render_report
from pipeline.results.result_files import StreamCurvePoint, read_class_measures, read_metrics


@pytest.fixture(scope="module")
def reported(finished):
    """An evaluation, the folder of its result, and its report. Read only."""
    run_folder, evaluation = finished
    folder = run_folder.parent / "reported"
    write_whole_result(folder, evaluation)
    return evaluation, folder, render_report(folder, [0])


def test_the_report_is_one_page_that_asks_for_nothing(reported):
    evaluation, folder, page = reported
    for forbidden in ("<script", "<link", 'src="http', "@import", "url(http"):
        assert forbidden not in page
    assert f"{100 * read_metrics(folder).accuracy:.2f}%" in page
    assert page.count("<svg") == 5
    assert evaluation.provenance.quarantined[0].clip_id in page
    assert "5/9" in page
    assert "paper's" not in page
    assert "Published results" not in page
    (row,) = [row for row in read_class_measures(folder) if row.label == "neutral"]
    assert f"{row.recall:.3f}" in page


def test_the_report_says_which_figures_leave_quarantined_clips_out(reported):
    _, folder, page = reported
    metrics = read_metrics(folder)
    assert metrics.scored < metrics.clips
    assert "their share of the scored clips with that label." in page
    assert "Log loss, Brier score and calibration error are over the scored clips." in page


def test_every_mistake_is_a_picture_that_is_part_of_the_page(reported):
    evaluation, _, page = reported
    assert page.count("<img") == page.count('src="data:image/jpeg;base64,') == len(evaluation.mistakes)


@pytest.mark.parametrize(
    ("reproduced", "expected"), [(True, "interval: reproduced"), (False, "interval: not reproduced")]
)
def test_the_report_says_whether_the_paper_is_reproduced(reported, reproduced, expected, tmp_path):
    evaluation, _, _ = reported
    write_whole_result(tmp_path, evaluation, reproduced=reproduced)
    page = render_report(tmp_path, [0])
    assert expected in page
    assert "<h2>Published results on VGAF's validation split</h2>" in page


def test_the_report_says_from_which_run_a_training_started(reported, tmp_path):
    evaluation, _, page = reported
    assert "<td>init" not in page
    taken = LoadedWeights("runs/acted/small/seed-0/model.safetensors", "ab12", ["a", "b"], {}, ["c"], [])
    initial = InitialWeights(taken, {"spoken": "cd34", "acted": "ef56"})
    runs = [dataclasses.replace(run, initial=initial) for run in evaluation.provenance.runs]
    provenance = dataclasses.replace(evaluation.provenance, runs=runs)
    write_whole_result(tmp_path, dataclasses.replace(evaluation, provenance=provenance))
    page = render_report(tmp_path, [0])
    assert "then 2 of 3 tensors from runs/acted/small/seed-0/model.safetensors; 1 missing: c, SHA-256" in page
    assert "<code>ab12</code>, trained on spoken, acted" in page


def test_the_report_says_which_runs_were_continued_with_changes(reported, tmp_path):
    evaluation, _, page = reported
    assert "continued with changes" not in page
    run = dataclasses.replace(evaluation.provenance.runs[0], resumed_with_changes=["number of processes: 1 -> 2"])
    provenance = dataclasses.replace(evaluation.provenance, runs=[run])
    write_whole_result(tmp_path, dataclasses.replace(evaluation, provenance=provenance))
    sentence = "Seed 0 was interrupted and continued with changes: number of processes: 1 -&gt; 2."
    assert sentence in render_report(tmp_path, [0])


def test_the_report_names_no_folder_of_this_machine(reported, tmp_path):
    evaluation, _, _ = reported
    runs = [in_folders(run, tmp_path) for run in evaluation.provenance.runs]
    provenance = dataclasses.replace(evaluation.provenance, runs=runs)
    write_whole_result(tmp_path, dataclasses.replace(evaluation, provenance=provenance))
    page = render_report(tmp_path, [0])
    assert str(tmp_path) not in page
    assert "from pretrained.pth, SHA-256 <code>ab12</code>" in page


def test_the_report_lists_the_first_suspect_clips_of_each_kind(reported, tmp_path):
    evaluation, _, page = reported
    assert "may be broken" not in page
    card = dataclasses.replace(evaluation.provenance.clips["val"], suspect={"muted": [f"m_{i}" for i in range(25)]})
    provenance = dataclasses.replace(evaluation.provenance, clips={**evaluation.provenance.clips, "val": card})
    write_whole_result(tmp_path, dataclasses.replace(evaluation, provenance=provenance))
    page = render_report(tmp_path, [0])
    assert '<td>val<td>muted<td class="number">25<td>m_0, ' in page
    assert "m_19, ...</tr>" in page


def test_a_report_of_several_seeds_shows_each_their_votes_and_how_they_vary(reported, tmp_path):
    evaluation, _, page = reported
    for only_of_several in ("<h2>Seeds</h2>", "all seeds as one", "deviation over seeds", "summed over seeds"):
        assert only_of_several not in page
    (run,) = evaluation.provenance.runs
    other = dataclasses.replace(
        evaluation,
        seed=5,
        predictions=with_probabilities(evaluation.predictions, evaluation.predictions.probabilities[:, [1, 2, 0]]),
        curves=[dataclasses.replace(point, seed=5) for point in evaluation.curves],
        provenance=dataclasses.replace(evaluation.provenance, runs=[dataclasses.replace(run, run=RunId(5))]),
    )
    metrics = write_whole_result(tmp_path, evaluation, other)
    page = render_report(tmp_path, [0, 5])
    assert f"{100 * metrics.accuracy:.2f}% ± {100 * metrics.accuracy_sd:.2f}" in page
    assert "mean and standard deviation over 2 seeds" in page
    for row in metrics.seeds:
        assert f'<tr><td>{row.seed}<td class="number">{row.accuracy:.3f}<td class="number">{row.macro_f1:.3f}' in page
    assert '<th class="number">mean<th class="number">deviation over seeds' in page
    assert f'<td class="number">{metrics.macro_f1:.3f}<td class="number">{metrics.macro_f1_sd:.3f}' in page
    for name, combination in (("equal weights", metrics.soft_vote), ("weights chosen on dev", metrics.weighted_vote)):
        assert f'<td>Vote, {name}<td class="number">{combination.accuracy:.3f}' in page
    assert "Soup" not in page
    assert "one line for each of 2 runs" in page


def test_a_report_shows_what_each_stream_alone_knows(reported, tmp_path):
    evaluation, _, page = reported
    assert "What each stream alone knows" in page
    assert "gradient norm</text>" in page
    assert {point.stream for point in evaluation.stream_curves} == {"scene", "sound"}
    for name in ("scene", "sound"):
        assert f">{name}</text>" in page
    write_whole_result(tmp_path, dataclasses.replace(evaluation, stream_curves=[]))
    assert "What each stream alone knows" not in render_report(tmp_path, [0])


def test_each_of_four_streams_has_a_colour_of_its_own():
    streams = ("scene", "motion", "people", "sound")
    points = [StreamCurvePoint(0, None, epoch, name, 1.0, 0.5, 1.0) for name in streams for epoch in (1, 2)]
    axes = Figure().subplots()
    draw_stream_accuracies(axes, points, 3)
    colours = {line.get_color() for line in axes.get_legend().get_lines()}
    assert len(colours) == 4


def test_the_gradient_norms_of_each_network_are_drawn_and_a_dead_network_has_none():
    norms = {"scene": [1.0, 0.1, 0.01], "sound": [2.0, 0.5, 0.0]}
    points = [
        StreamCurvePoint(0, None, epoch, name, 1.0, 0.5, value)
        for name, values in norms.items()
        for epoch, value in enumerate(values, start=1)
    ]
    axes = Figure().subplots()
    draw_gradient_norms(axes, points)
    drawn = [np.asarray(line.get_ydata(), float).tolist() for line in axes.lines]
    assert drawn == [[1.0, 0.1, 0.01], [2.0, 0.5, pytest.approx(math.nan, nan_ok=True)]]
    assert axes.get_yscale() == "log"
    draw_gradient_norms(Figure().subplots(), [dataclasses.replace(point, gradient_norm=0.0) for point in points])


def test_a_report_of_folds_says_that_it_is_a_cross_validation(reported, tmp_path):
    evaluation, _, page = reported
    assert "cross-validation" not in page
    assert "<th>fold" not in page
    (run,) = evaluation.provenance.runs
    runs = [dataclasses.replace(run, run=RunId(0, fold)) for fold in (1, 2)]
    provenance = dataclasses.replace(evaluation.provenance, folds=2, reported=["train"], runs=runs)
    curves = [dataclasses.replace(point, fold=fold) for fold in (1, 2) for point in evaluation.curves]
    metrics = write_whole_result(tmp_path, dataclasses.replace(evaluation, provenance=provenance, curves=curves))
    page = render_report(tmp_path, [0])
    assert metrics.folds == 2
    assert "accuracy of 2-fold cross-validation over sources" in page
    assert page.count("<th>fold") == 2
    assert metrics.label_sha256 == evaluation.provenance.data.train.label_sha256


@pytest.mark.parametrize("folds", [None, 3])
def test_sources_in_both_splits_make_the_accuracy_too_high_unless_it_is_that_of_folds(reported, folds, tmp_path):
    evaluation, _, page = reported
    assert "No source has clips in both splits." in page
    data = dataclasses.replace(evaluation.provenance.data, sources_in_both=["41"])
    provenance = dataclasses.replace(evaluation.provenance, data=data, folds=folds)
    write_whole_result(tmp_path, dataclasses.replace(evaluation, provenance=provenance))
    page = render_report(tmp_path, [0])
    assert ("1 sources have clips in both splits, so the accuracy above is too high" in page) == (folds is None)
    assert "No source has" not in page


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("metrics.json", "summarize"),
        ("per_class.csv", "summarize"),
        ("reliability.csv", "summarize"),
        ("seeds/0/provenance.json", "evaluate"),
        ("seeds/0/curves.csv", "evaluate"),
        ("seeds/0/mistakes", "evaluate"),
    ],
)
def test_a_result_without_one_of_its_files_is_refused(reported, name, stage, tmp_path):
    folder = shutil.copytree(reported[1], tmp_path / "results")
    if (folder / name).is_dir():
        shutil.rmtree(folder / name)
    else:
        (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing; run the {stage} stage"):
        render_report(folder, [0])


@pytest.mark.slow
@pytest.mark.parametrize("width_px", [1280, 390])
def test_a_browser_shows_the_report_without_network_errors_or_sideways_scrolling(reported, width_px, tmp_path):
    if not (browser := shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("needs Chromium")
    page = reported[2]
    assert look_at(page, width_px, browser, tmp_path) == ([], set(), True)
    bad = '<img src="https://images.test/a.png"><script>console.error("no")</script><p style="width: 9000px">wide'
    messages, hosts, fits = look_at(page.replace("<h1>", f"{bad}<h1>"), width_px, browser, tmp_path)  # the check works
    assert '"no"' in messages[0]
    assert (hosts, fits) == ({"images.test"}, False)


def test_dvc_draws_the_curves_of_a_single_epoch_as_dots():
    (curves,) = [
        each["curves"] for each in yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["plots"] if "curves" in each
    ]
    template = json.loads((REPOSITORY / f".dvc/plots/{curves['template']}.json").read_text())
    assert template["mark"]["point"] is True
    assert template["encoding"]["y"]["scale"]["zero"] is True


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
    messages, hosts, fits = look_at(page, 1280, browser, tmp_path / "dvc_plots")
    assert ([line for line in messages if "Error" in line], hosts, fits) == ([], set(), True)
    messages, _, _ = look_at(page.replace("vega.js", "nothing.js"), 1280, browser, tmp_path / "dvc_plots")
    assert "vegaEmbed is not defined" in messages[-1]


def look_at(page, width_px, browser, folder):
    """Open a page. Returns the messages on the console, the hosts that were asked, and whether the width suffices."""
    measure = "<script>document.title = document.documentElement.scrollWidth <= window.innerWidth</script>"
    (folder / "page.html").write_text(page + measure)
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=2000"),
        *(f"--user-data-dir={folder}/profile", f"--log-net-log={folder}/net.json", f"--window-size={width_px},900"),
    )
    command = [browser, *options, "--dump-dom", (folder / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    hosts = set(re.findall(r'"url":"https?://([^/"]+)', (folder / "net.json").read_text()))
    asked_by_browser = {host for host in hosts if host.endswith((".google.com", ".gvt1.com"))}
    messages = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return messages, hosts - asked_by_browser, "<title>true</title>" in done.stdout


def test_a_result_of_other_seeds_is_no_report_of_these(reported):
    """Its mean would be over two seeds, and its settings would name one."""
    _, folder, _ = reported
    with pytest.raises(UserError, match=r"holds the seeds \[0\], and the settings name \[0, 1\]; run summarize again"):
        render_report(folder, [0, 1])
