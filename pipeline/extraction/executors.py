"""Tasks on a Dask cluster. They and their results are the same as on the processes of one machine."""

from collections.abc import Callable, Iterator

from pipeline.common.errors import UserError, missing_extra
from pipeline.common.processes import Result, Task


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
