"""Pictures with any number of classes: each has a name, a colour and room."""

import io
import warnings
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.common.config import RunId
from pipeline.results.figures import draw_confusion, draw_curves, draw_gradient_norms, draw_stream_accuracies, svg
from pipeline.results.pictures import class_colors, draw_legend, draw_predictions
from pipeline.results.result_files import CurvePoint, StreamCurvePoint

CLASSES = {
    "three": ["positive", "neutral", "negative"],
    "one word each": ["anger", "disgust", "fear", "joy", "sadness", "surprise"],
    "long names": [f"{name} AND MUCH MORE OF THE SAME" for name in ("anger", "disgust", "fear", "joy", "sadness")],
    "two long ones": ["it is one of the positive ones", "it is one of the others"],
    "many": [f"emotion {number}" for number in range(24)],
}


@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize("place", [{"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}, {"loc": "upper right"}])
def test_the_legend_fits_beside_and_above_what_is_drawn(classes, place):
    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots()
    draw_predictions(axes, {"as it is": np.full(len(classes), 1 / len(classes))}, classes)
    draw_legend(axes, classes, **place)
    figure.savefig(io.BytesIO())
    legend, whole = axes.get_legend().get_window_extent(), figure.bbox
    assert whole.x0 <= legend.x0 < legend.x1 <= whole.x1
    assert whole.y0 <= legend.y0 < legend.y1 <= whole.y1


def test_up_to_three_classes_keep_their_colours_and_up_to_twenty_have_different_ones():
    assert class_colors(3) == ["#3a9d5d", "#8a939c", "#c8553d"]
    assert class_colors(2) == class_colors(3)[:2]
    assert len(set(class_colors(20))) == 20
    assert len(class_colors(24)) == 24


@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES)
def test_the_confusion_matrix_names_every_class_twice_and_leaves_room_for_itself(classes):
    matrix = np.arange(len(classes) ** 2).reshape(len(classes), -1)
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    draw_confusion(axes, matrix, classes)
    figure.savefig(io.BytesIO())
    assert axes.get_window_extent().width > figure.bbox.width / 4
    assert axes.get_window_extent().height > figure.bbox.height / 4
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert not any(first.overlaps(second) for first, second in pairwise(boxes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = svg(lambda axes: draw_confusion(axes, matrix, classes))
    assert all(page.count(f">{name[:19]}") >= 2 for name in classes)


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_curves_of_a_single_epoch_can_be_seen(epochs):
    """A line needs two points, so a single one gets a dot."""
    figure = Figure()
    axes = figure.subplots(3)
    numbers = range(1, epochs + 1)
    draw_curves(axes[0], [CurvePoint(0, None, number, 1.0, None) for number in numbers], "none", {RunId(0): 1})
    points = [StreamCurvePoint(0, None, number, "scene", 1.0, 0.5, 0.1) for number in numbers]
    draw_stream_accuracies(axes[1], points, 3)
    draw_gradient_norms(axes[2], points)
    markers = {each.lines[0].get_marker() for each in axes}
    assert markers == ({"o"} if epochs == 1 else {"None"})
