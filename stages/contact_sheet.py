"""Draw what is in a shard, frames and log-mels, for a look.

`python -m stages.contact_sheet data/shards/demo/val/val-000000.tar`: a shard -> val-000000.png
"""

import argparse
from pathlib import Path

from pipeline.common.errors import exits_with_one_sentence
from pipeline.results.contact_sheet import draw_contact_sheet


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.contact_sheet", description="Draw what is in a shard.")
    parser.add_argument("shard", type=Path)
    parser.add_argument("--output", type=Path, help="the picture to write; default: the shard's name, .png, here")
    parser.add_argument("--clips", type=int, default=8, help="how many of the first clips to show (default: 8)")
    arguments = parser.parse_args()
    output = arguments.output or Path(arguments.shard.name).with_suffix(".png")
    draw_contact_sheet(arguments.shard, arguments.clips).savefig(output, dpi=120)
    print(output)


if __name__ == "__main__":
    main()
