"""Episodes in chunks: cut, handed out, answered, and handed out again where a worker was lost.

- A chunk is named by its content (the job's digest and its specs). It may be answered any number of
  times; only the first answer counts, and an answered chunk is never handed out again.
- A chunk whose worker was lost goes to a fresh worker, before all others. The chunk that has lost
  its worker `TRIES` times ends the map: it is no longer the worker's fault.
- Chunks hold up to `CHUNK` episodes. The first are smaller, so that the first answers are not a
  whole chunk away, and the last no larger than an even share of what is left.

`drive` plays them on a `Crew`: whatever runs workers somewhere.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Generic, Protocol, TypeVar

from harness.sim.episode import EpisodeRecord, EpisodeSpec
from registry.errors import ServiceFailed
from registry.versions import digest_of

CHUNK = 64
FIRST = 16
"""Episodes of a worker's first chunk; its next are twice as large each, up to `CHUNK`."""
TRIES = 3

Worker = TypeVar("Worker")


@dataclass(frozen=True)
class Chunk:
    key: str
    specs: tuple[EpisodeSpec, ...]


@dataclass(frozen=True)
class Lost:
    """What is known of a worker's end: `killed by signal 9`."""

    how: str


Answer = Sequence[EpisodeRecord] | BaseException | Lost


class ChunkFailed(ServiceFailed):
    """A chunk lost each worker that it was given to."""

    code = "chunk_failed"

    def __init__(self, chunk: Chunk, how: str) -> None:
        first, last = chunk.specs[0], chunk.specs[-1]
        super().__init__(
            f"{TRIES} workers were lost at the same {len(chunk.specs)} episodes",
            evidence=f"chunk {chunk.key}, {_name(first)} to {_name(last)}; the last: {how}",
            hint="run with --executor threads to see the fault where it happens;"
            " finished episodes are kept",
        )
        self.chunk = chunk


class Chunks:
    """Which chunks of a map wait, and which are answered."""

    def __init__(self, digest: str, specs: Iterable[EpisodeSpec], workers: int) -> None:
        self._waiting = deque(cut(digest, tuple(specs), workers))
        self._open = {chunk.key for chunk in self._waiting}
        self._losses: Counter[str] = Counter()

    @property
    def open(self) -> bool:
        """Whether any chunk is unanswered."""
        return bool(self._open)

    def take(self) -> Chunk | None:
        """The next chunk to hand out, if one waits."""
        while self._waiting:
            chunk = self._waiting.popleft()
            if chunk.key in self._open:
                return chunk
        return None

    def answered(self, chunk: Chunk, records: Sequence[EpisodeRecord]) -> Sequence[EpisodeRecord]:
        """The records, or none where they have come before."""
        if {record.spec for record in records} != set(chunk.specs):
            raise RuntimeError(f"the answer to chunk {chunk.key} is not that of its episodes")
        if chunk.key not in self._open:
            return ()
        self._open.remove(chunk.key)
        return records

    def lost(self, chunk: Chunk, how: str) -> ChunkFailed | None:
        """The chunk's worker is gone; the map's failure where that was the last try."""
        self._losses[chunk.key] += 1
        if self._losses[chunk.key] >= TRIES:
            return ChunkFailed(chunk, how)
        self._waiting.appendleft(chunk)
        return None


def cut(digest: str, specs: Sequence[EpisodeSpec], workers: int) -> list[Chunk]:
    """`specs` in order, in chunks for `workers`."""
    chunks: list[Chunk] = []
    start = 0
    while start < len(specs):
        ramp = FIRST << min(len(chunks) // workers, 8)
        share = -(-(len(specs) - start) // workers)
        part = tuple(specs[start : start + min(CHUNK, ramp, share)])
        chunks.append(Chunk(digest_of([digest, [asdict(spec) for spec in part]]), part))
        start += len(part)
    return chunks


class Crew(Protocol, Generic[Worker]):
    """Workers that each play one chunk at a time."""

    def hire(self) -> Worker:
        """A fresh worker, which may still be starting."""
        ...

    def send(self, worker: Worker, chunk: Chunk) -> None:
        """Gives a worker its next chunk; that it is gone shows in `wait`."""
        ...

    def wait(self, busy: Collection[Worker]) -> Sequence[tuple[Worker, Answer]]:
        """Answers of at least one of the busy workers, as soon as there are any."""
        ...

    def dismiss(self, worker: Worker) -> None:
        """Ends a worker at once, whatever it does."""
        ...


def drive(crew: Crew[Worker], chunks: Chunks, workers: int) -> Generator[EpisodeRecord]:
    """Plays the chunks on up to `workers` workers; at its end none of them is left."""
    free: list[Worker] = []
    busy: dict[Worker, Chunk] = {}
    try:
        while chunks.open:
            while len(busy) < workers and (chunk := chunks.take()) is not None:
                worker = free.pop() if free else crew.hire()
                busy[worker] = chunk
                crew.send(worker, chunk)
            records: list[EpisodeRecord] = []
            failure: BaseException | None = None
            for worker, answer in crew.wait(busy):
                chunk = busy.pop(worker)
                if isinstance(answer, Lost):
                    crew.dismiss(worker)
                    failure = chunks.lost(chunk, answer.how) or failure
                elif isinstance(answer, BaseException):
                    free.append(worker)
                    failure = answer
                else:
                    records += chunks.answered(chunk, answer)
                    if (following := chunks.take()) is not None:
                        busy[worker] = following
                        crew.send(worker, following)
                    else:
                        free.append(worker)
            yield from records
            if failure is not None:
                raise failure
    finally:
        for worker in [*busy, *free]:
            crew.dismiss(worker)


def _name(spec: EpisodeSpec) -> str:
    changes = " ".join(f"{c.target}.{c.field}={c.value:g}" for c in spec.changes)
    return f"{spec.task} episode {spec.episode}{f' ({changes})' if changes else ''}"
