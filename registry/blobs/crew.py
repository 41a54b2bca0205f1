"""Threads that bring blobs in, a few waiting at a time; the first error stops the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from registry.ports import Source


class Crew:
    def __init__(self, workers: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(workers, "blob")
        self._slots = threading.BoundedSemaphore(waiting)
        self._error: BaseException | None = None

    def do(self, work: Callable[[], None], source: Source) -> None:
        """Begins `work` when there is room, and closes `source` when it has ended."""
        self.raise_first(source)
        self._slots.acquire()
        self._pool.submit(work).add_done_callback(lambda done: self._ended(done, source))

    def raise_first(self, source: Source | None = None) -> None:
        """Raises what failed first, if anything did; then nobody needs `source`."""
        if self._error is not None:
            if source is not None:
                source.close()
            raise self._error

    def end(self, *, cancel: bool) -> None:
        """Waits for what has begun, and unless `cancel` for what waits; raises no error."""
        self._pool.shutdown(wait=True, cancel_futures=cancel)

    def _ended(self, done: Future[None], source: Source) -> None:
        source.close()
        self._slots.release()
        if not done.cancelled() and (error := done.exception()) is not None:
            self._error = self._error or error
