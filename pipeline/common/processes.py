"""Tasks on processes of this machine, of which none is left behind.

A worker ends when the process that started it ends, in whatever way.
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
    """Yield the results of the tasks as they finish, from at most `workers` processes, with `preload` imported.

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
                "a worker process was killed (by hand, or because memory ran out); "
                "what is finished is kept: run the same command again"
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
