"""The same matrix of samples, laid out in memory in other ways."""

import numpy as np

from support.bits.arrays import reversed_rows, unaligned


def padded(G):
    """Rows further apart than they are long, with NaN between them."""
    wide = np.full((G.shape[0], G.shape[1] + 5), np.nan, G.dtype)
    wide[:, 2:-3] = G
    return wide[:, 2:-3]


LAYOUTS = {
    "unaligned": unaligned,
    "row stride > P": padded,
    "negative row stride": reversed_rows,
    "every third row": lambda G: np.repeat(G, 3, axis=0)[1::3],
    "read-only": lambda G: np.frombuffer(G.tobytes(), G.dtype).reshape(G.shape),
}
VIEWS = LAYOUTS | {"one row repeated": lambda G: np.broadcast_to(G[2:3], G.shape)}  # which is no copy of all rows
