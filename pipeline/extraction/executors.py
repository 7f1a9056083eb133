"""Where tasks run: on processes of this machine, or on a Dask cluster. The tasks and their results are the same.

Neither leaves a process behind: a worker ends when the process that started it ends, in whatever way.
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

from pipeline.common.errors import UserError, missing_extra

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_on_this_machine(
    function: Callable[[Task], Result], tasks: list[Task], workers: int, preload: str
) -> Iterator[Result]:
    """Yield the results of the tasks as they finish, from `workers` processes that start with `preload` imported.

    Raises `UserError` if a worker is killed.
    """
    if not tasks:
        return
    # A fork server imports the module once; its workers inherit it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise UserError(
                "an extraction worker was killed (by hand, or because memory ran out); "
                "finished shards are kept: run the same command again"
            ) from None
        except BaseException:  # after an interrupt or an error, nobody waits for the rest
            for process in multiprocessing.active_children():
                process.kill()
            raise


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def run_on_dask(function: Callable[[Task], Result], tasks: list[Task], scheduler: str) -> Iterator[Result]:
    """Yield the results of the tasks as they finish, from the workers of a Dask cluster that share these folders.

    A task whose worker died goes to another one, `distributed.scheduler.allowed-failures` times. Raises `UserError` if
    Dask is not installed, the scheduler does not answer, or a task's workers keep dying.
    """
    if not tasks:
        return
    try:
        import distributed
    except ModuleNotFoundError:
        raise missing_extra("dask.distributed, which extract.executor names,", "dask") from None
    try:
        client = distributed.Client(scheduler)
    except OSError as error:
        raise UserError(
            f"no Dask scheduler answers at extract.scheduler = {scheduler} ({error}); start one, or correct the address"
        ) from None
    with client:
        try:
            for future in distributed.as_completed(client.map(function, tasks, pure=False)):
                yield future.result()
        except distributed.KilledWorker as error:
            raise UserError(
                f"every Dask worker that was given one of the tasks died ({error}); read the workers' logs"
            ) from None
