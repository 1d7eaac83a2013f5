"""What a CUDA kernel promises of its machine code; written beside each family, checked with no GPU."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """threads: that must fit on a multiprocessor of `arch` at once, by registers and shared memory.

    in_flight: bytes that the loads of the main loop keep outstanding on it, at least. streams: False for a kernel that
    moves a few bytes only and has no main loop. float64: True where float64 arithmetic is meant although the data are
    narrower; with float64 data it always is. narrow: loads and stores below 128 bits that the main loop may have.
    """

    threads: int
    in_flight: int = 32 << 10
    streams: bool = True
    float64: bool = False
    narrow: int = 0
    arch: str = "sm_90"
