"""Reading clips in several child processes, some clips ahead of the one that is predicted."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import LifoQueue

from threadpoolctl import threadpool_limits

from pipeline.common.machine import available_cores
from pipeline.extraction.clip_reader import ClipMedia
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.sample_extraction import to_sample
from pipeline.extraction.sandbox import Sandbox
from pipeline.extraction.timeline import Window
from pipeline.loading.batch import Batch, collate
from pipeline.loading.memory import Memory
from pipeline.loading.sampling import FrameSampling

MOST_PROCESSES = 8  # more were not tried
AHEAD = 2  # clips per process that are read before they are asked for: one that is being read, and one that is ready

ReadClip = tuple[ClipMedia, Batch]


class Reader:
    """Reads clips as evaluation does, in child processes; each is started when it is needed.

    There is at most one per core, and `MOST_PROCESSES` in all. `close` ends them. Until then, sums in NumPy, and those
    of PyTorch in the threads that read, use one thread, as in extraction: the order of a sum, hence its last bits,
    depends on the number of threads.
    """

    def __init__(self, settings: ClipSettings, sampling: FrameSampling) -> None:
        self._settings, self._sampling, self._memory = settings, sampling, Memory()
        processes = min(available_cores(), MOST_PROCESSES)
        self._sandboxes = [Sandbox() for _ in range(processes)]
        self._idle: LifoQueue[Sandbox] = LifoQueue()  # so that clips that are read one by one need one process
        for sandbox in self._sandboxes:
            self._idle.put(sandbox)
        self._threads = ThreadPoolExecutor(processes, initializer=threadpool_limits, initargs=(1, "openmp"))
        self._limits = threadpool_limits(1, user_api="blas")

    def read_duration_s(self, path: Path) -> float:
        """How long a file lasts, which may be longer than a clip; raises `MediaError`."""
        with self._idle_sandbox() as sandbox:
            return sandbox.read_duration_s(path, self._settings)

    def read_ahead(self, clips: Iterable[tuple[Path, Window | None]]) -> "Generator[Future[ReadClip], None, None]":
        """Read files that are clips, or windows of files, each as a batch of one, in order and some of them ahead.

        The result of a future raises `MediaError` for a clip that cannot be used.
        """
        waiting: deque[Future[ReadClip]] = deque()
        try:
            for path, window in clips:
                waiting.append(self._threads.submit(self._read, path, window))
                if len(waiting) > AHEAD * len(self._sandboxes):
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for read in waiting:  # if nobody wants the others
                read.cancel()

    def close(self) -> None:
        """Kill the child processes; what is being read is given up."""
        for sandbox in self._sandboxes:
            sandbox.give_up()
        self._threads.shutdown(cancel_futures=True)
        for sandbox in self._sandboxes:
            sandbox.close()
        self._limits.restore_original_limits()

    def _read(self, path: Path, window: Window | None) -> ReadClip:
        with self._idle_sandbox() as sandbox:
            media = sandbox.read_clip(path, self._settings, window)
        features = self._settings.features
        sample = to_sample(path.stem, media, features)
        return media, collate([sample], [0], self._sampling.evaluated, features, self._memory)

    @contextmanager
    def _idle_sandbox(self) -> Iterator[Sandbox]:
        sandbox = self._idle.get()
        try:
            yield sandbox
        finally:
            self._idle.put(sandbox)
