"""A clock that goes ahead where a stub of gpu_stub.py hangs, so that nobody waits for as long as it would be given."""

import threading
import time
from types import SimpleNamespace

NOTICED = 0.3  # seconds in which all that was said before is heard, or it costs a test its patience and no more


def ahead_of_what_hangs(path, seconds, ready=lambda: True):
    """What of `time` gpu/process.py uses, so many seconds later for each process whose id comes to be in the file.

    ready(): whether what runs beside it has got as far as it must.
    """
    here = threading.local()  # each thread hears what was said to it before its time is over

    def monotonic():
        now, seen = time.monotonic(), here.__dict__.setdefault("seen", {})
        if path.exists() and (process := path.read_text()) and ready():
            seen.setdefault(process, now)
        return now + seconds * sum(now - first > NOTICED for first in seen.values())

    return SimpleNamespace(monotonic=monotonic)
