"""The same tasks on a Dask cluster: a real scheduler and two worker processes on loopback."""

import json
import os
import signal
import subprocess
import sys
import time

import dask
import psutil
import pytest
from helpers import REPOSITORY, clips_of
from numbered_clips import with_limits

from pipeline.common.errors import UserError
from pipeline.extraction.executors import run_on_dask
from pipeline.extraction.sandbox import CHILD_MODULE
from pipeline.extraction.splits import extract_splits
from pipeline.shards.index import INDEX_NAME


@pytest.fixture
def cluster(tmp_path):
    """The address of a scheduler, and its two workers, whose current folder is not this project's."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "30s"}
    address_file = tmp_path / "scheduler.json"

    def start(program, *arguments):
        command = [
            sys.executable,
            "-m",
            "distributed.cli." + program,
            "--scheduler-file",
            str(address_file),
            *arguments,
        ]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
        )

    scheduler = start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    while not address_file.exists():
        assert scheduler.poll() is None
        time.sleep(0.1)
    workers = [start("dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard") for _ in range(2)]
    yield json.loads(address_file.read_text())["address"], workers
    for process in (*workers, scheduler):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_writes_the_same_bytes(cluster, drawn_root, clip_settings, tmp_path):
    address, workers = cluster
    clips = {split: clips_of(drawn_root, split) for split in ("train", "val")}
    settings = with_limits(clip_settings, clips_per_shard=2)
    extract_splits(clips, drawn_root, tmp_path / "local", settings, 2)

    on_dask = with_limits(settings, executor="dask", scheduler=address)
    folder = tmp_path / "dask"
    killer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, pathlib, signal, sys, time\n"
            f"while len(list(pathlib.Path({str(folder)!r}).rglob('*.tar.json'))) < 2: time.sleep(0.001)\n"
            f"os.kill({workers[0].pid}, signal.SIGKILL)",
        ]
    )
    extract_splits(clips, drawn_root, folder, on_dask, 0)
    assert killer.wait() == 0
    assert workers[0].wait() == -signal.SIGKILL
    assert contents(folder) == contents(tmp_path / "local")
    assert (folder / "val" / INDEX_NAME).exists()
    children = [p for p in psutil.process_iter(["cmdline", "ppid"]) if CHILD_MODULE in (p.info["cmdline"] or [])]
    assert children
    assert [p for p in children if p.info["ppid"] == 1] == []  # the dead worker's child ended with it


def test_a_scheduler_that_does_not_answer_is_named():
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}),
        pytest.raises(UserError, match=r"no Dask scheduler answers at extract\.scheduler = tcp://127"),
    ):
        list(run_on_dask(str, [1], "tcp://127.0.0.1:9"))


def test_dask_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"dask\.distributed, which .* is not installed: run make setup"):
        list(run_on_dask(str, [1], "tcp://127.0.0.1:9"))
