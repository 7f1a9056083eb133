"""Libraries get a folder for their caches where they could write nowhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY

from pipeline.common import caches

WITHOUT_WRITABLE_FOLDERS = """
import os
os.access = lambda *_: False
from pipeline.common.caches import use_writable_caches
use_writable_caches()
print(os.environ["NUMBA_CACHE_DIR"])
print(oct(os.stat(os.environ["NUMBA_CACHE_DIR"]).st_mode)[-3:])
"""


def test_numba_gets_a_folder_of_this_user_alone_which_goes_with_the_process():
    environment = {name: value for name, value in os.environ.items() if name != caches.NUMBA}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_WRITABLE_FOLDERS],
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    folder, permissions = done.stdout.split()
    assert permissions == "700"
    assert not Path(folder).exists()


@pytest.mark.parametrize("given", [True, False])
def test_a_folder_that_the_user_gave_or_that_can_be_written_is_left_alone(given, monkeypatch):
    monkeypatch.delenv(caches.NUMBA, raising=False)
    if given:
        monkeypatch.setenv(caches.NUMBA, "/mine")
        monkeypatch.setattr(os, "access", lambda *_: False)
    caches.use_writable_caches()
    assert os.environ.get(caches.NUMBA) == ("/mine" if given else None)
