"""Where tasks run: on the processes of this machine, or on a Dask cluster. The same tasks, the same results.

Neither leaves a process behind: a worker ends when the process that started it does, however that one ended.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from pipeline.common.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_on_this_machine(
    function: Callable[[Task], Result], tasks: list[Task], workers: int, preload: str
) -> Iterator[Result]:
    """Yield the results of the tasks as they come, from `workers` processes that find module `preload` imported."""
    if not tasks:
        return
    # A fork server imports once; its workers inherit what it imported.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise UserError(
                "an extraction worker was killed (out of memory, or by hand); finished shards are kept: run it again"
            ) from None
        except BaseException:  # an interrupt or an error: nobody waits for the rest
            for process in multiprocessing.active_children():
                process.kill()
            raise


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def run_on_dask(function: Callable[[Task], Result], tasks: list[Task], scheduler: str) -> Iterator[Result]:
    """Yield the results of the tasks as they come, from the workers of a Dask cluster that share these folders.

    A task whose worker died goes to another one, `distributed.scheduler.allowed-failures` times.
    """
    if not tasks:
        return
    try:
        import distributed
    except ModuleNotFoundError:
        raise UserError(
            "extract.executor is dask, but dask.distributed is not installed; install the extra: "
            "pip install 'group-emotion[dask]'"
        ) from None
    try:
        client = distributed.Client(scheduler)
    except OSError as error:
        raise UserError(f"no Dask scheduler answers at extract.scheduler = {scheduler} ({error}); start one") from None
    with client:
        try:
            for future in distributed.as_completed(client.map(function, tasks, pure=False)):
                yield future.result()
        except distributed.KilledWorker as error:
            raise UserError(f"Dask workers died of the same task again and again ({error}); see their logs") from None
