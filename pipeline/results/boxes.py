"""Drawing the boxes of faces."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

BOX_COLOR = "#ffd400"


def draw_box(axes: Axes, box: Sequence[float], share: float | None = None) -> None:
    """Draw the box of a face (`Person`) in a frame that fills the axes, and below it its share of the attention."""
    centre_x, centre_y, width, height = box
    corner = (centre_x - width / 2, 1 - centre_y - height / 2)
    axes.add_patch(Rectangle(corner, width, height, transform=axes.transAxes, fill=False, color=BOX_COLOR, linewidth=1))
    if share is not None:
        behind = {"facecolor": "black", "edgecolor": "none", "pad": 1}
        axes.text(*corner, f"{share:.0%}", color=BOX_COLOR, fontsize=6, va="top", transform=axes.transAxes, bbox=behind)
