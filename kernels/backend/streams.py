"""One owner's work on a GPU runs in the order of its calls, whatever streams they are on.

Kernels of an owner share its tables, partial sums and counters, so those of two calls must never overlap.
"""

import threading

from . import driver
from .buffers import raise_fault
from .geometry import SIMULATED


class Order:
    """The stream that an owner's work was last enqueued on. On one device, in one thread at a time.

    It must live until the work is done: CuPy's streams stay here, torch's live as long as the process. Default
    streams of each thread, which share a handle, are not told apart.
    """

    def __init__(self) -> None:
        self._api = driver.driver()
        self._last, self._event, self._retired = None, None, []
        self._lock = threading.Lock()  # a model's loss follows, too, beside its steps

    def follow(self) -> bool:
        """Let the current stream wait for what the owner has enqueued on others; says whether it records a CUDA graph.

        Nothing that is recorded runs, so then nothing is ordered: replays are ordered by the streams they are on alone.
        RuntimeError if the stream to wait for is itself recording, or counters were found wrong.
        """
        raise_fault()
        stream = self._api.current_stream()
        if self._api.capturing(stream.ptr):
            return True
        if stream is not self._last:
            self._wait(stream)
        return False

    def _wait(self, stream):
        with self._lock:
            last = self._last
            if last is not None and last.ptr != stream.ptr:
                if self._api.capturing(last.ptr):
                    raise RuntimeError("the stream of the call before records a CUDA graph: end the capture first")
                if self._event is None:
                    self._event = self._api.event()
                last.record(self._event)
                stream.wait_event(self._event)
            self._last = stream  # held, so that no other stream is given its handle

    def retire(self, resource: object) -> None:
        """Keep what is no longer needed until the work that is enqueued by now, which may read it, is done."""
        self._retired = [(done, old) for done, old in self._retired if not done.done]
        done = self._api.event()
        self._last.record(done)
        self._retired.append((done, resource))


class Unordered:
    """Of an owner whose calls are done when they return."""

    def follow(self) -> bool:
        return False

    def retire(self, resource: object) -> None:
        pass


def order(device: str) -> Order | Unordered:
    """What orders the calls of an owner on this device, "cpu" or "cuda"."""
    return Unordered() if device == "cpu" or SIMULATED else Order()


def place(device: str) -> tuple[tuple[str, int], int]:
    """(device, number of the GPU), and the handle of CuPy's current stream there or 0: where a workspace is used."""
    if device == "cpu" or SIMULATED:
        return (device, 0), 0
    api = driver.driver()
    return (device, api.device()), api.current_stream().ptr


def not_recorded(recorded: bool, instead: str) -> None:
    """RuntimeError if a CUDA graph would repeat what later calls change. recorded: what `follow` said."""
    if recorded:
        raise RuntimeError(f"a CUDA graph would read what the next call changes: {instead}")
