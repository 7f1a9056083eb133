"""Draw the demo set, real mp4 files in VGAF's layout, where `dataset.root` says.

`python -m stages.synthesize`: params.yaml (dataset) -> dataset.root
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from pipeline.clips.demo_set import draw_clip, plan_clips, prepare_root, write_label_files
from pipeline.common.config import load_config
from pipeline.common.errors import exits_with_one_sentence
from pipeline.common.machine import available_cores
from pipeline.common.progress import track


@exits_with_one_sentence
def main() -> None:
    config = load_config()
    for name, settings in config.dataset.synthesize.items():
        clips = plan_clips(settings)
        prepare_root(config.root)
        write_label_files(clips, config.root)
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(available_cores(), mp_context=context) as pool:
            drawn = pool.map(draw_clip, clips, repeat(settings), repeat(config.root), chunksize=4)
            for _ in track(drawn, f"synthesize {name}", len(clips), "clips"):
                pass


if __name__ == "__main__":
    main()
