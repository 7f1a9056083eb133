import subprocess
import sys

from helpers import REPOSITORY

NETWORK_LIBRARIES = {"torch", "accelerate", "timm", "torchvision", "webdataset"}


def test_the_report_is_made_without_importing_a_network_library():
    code = "import sys, stages.report, pipeline.results.report\nprint(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert NETWORK_LIBRARIES & set(process.stdout.split()) == set()
