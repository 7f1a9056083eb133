"""What the weights of a training follow from."""

import ast
import sys

from pipeline.common.provenance import imported_modules
from pipeline.training.identity import LIBRARIES

# They read files and settings, fetch weights, and show progress; scikit-learn cuts splits, whose roles have a digest.
DECIDE_NO_WEIGHT = {
    *("pydantic", "yaml", "tqdm", "safetensors", "imageio_ffmpeg", "sklearn"),
    *("aiohttp", "fsspec", "httpx", "huggingface_hub"),
}


def test_each_library_that_the_loop_imports_is_part_of_the_identity_or_decides_no_weight():
    names = set()
    for tree in imported_modules(["pipeline.training.loop"]).values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
    names -= {"pipeline", "_typeshed", *sys.stdlib_module_names}
    assert names - DECIDE_NO_WEIGHT == set(LIBRARIES)
