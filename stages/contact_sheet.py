"""Draw the frames and log-mels of the first clips of a shard.

example:
  python -m stages.contact_sheet data/shards/demo/*/val/val-000000.tar
reads:
  one shard
writes:
  <shard>.png in the current folder, or the file that --output names
"""

import math
from pathlib import Path

from pipeline.common.command_line import stage_parser, whole_number
from pipeline.common.errors import UserError, exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    parser = stage_parser(__file__, __doc__)
    parser.add_argument(
        "shards", type=Path, nargs="+", metavar="shard", help="file of a shard; of several, the newest is drawn"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="picture to write (<shard>.png)")
    parser.add_argument("--clips", type=whole_number(1), default=8, metavar="N", help="number of clips to show (8)")
    arguments = parser.parse_args()

    from pipeline.results.contact_sheet import draw_contact_sheet

    # The example's pattern matches a shard for each set of features that was extracted. A missing one is refused below.
    shard = max(arguments.shards, key=lambda path: path.stat().st_mtime if path.exists() else math.inf)
    output = arguments.output or Path(shard.name).with_suffix(".png")
    figure, kind = draw_contact_sheet(shard, arguments.clips), output.suffix[1:].lower() or "png"
    if kind not in (kinds := figure.canvas.get_supported_filetypes()):
        raise UserError(f"--output is {output}, expected a name that ends in .png, or in one of {', '.join(kinds)}")
    figure.savefig(output, format=kind, dpi=120)
    print(output)


if __name__ == "__main__":
    main()
