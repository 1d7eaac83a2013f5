"""References that share no code with the library: exact fma, the tree by its text, error bounds, plain loops."""

import math
from fractions import Fraction
from inspect import signature

import ml_dtypes
import numpy as np

DTYPES = ("float16", "bfloat16", "float32", "float64")
RADIX = 32
CHUNK, WIDTH = 1024, 128  # of whole-tensor norms: elements, lanes


def dtype_of(name):
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def sums_of(name):
    return np.dtype("float64" if name == "float64" else "float32")


def bits(array):
    """The bits of an array as integers, with every NaN the same."""
    array = np.asarray(array)
    if array.dtype.kind in "iub":
        return array
    plain = np.array(array, order="C").view(f"uint{8 * array.itemsize}")
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return np.where(np.isnan(array), np.iinfo(plain.dtype).max, plain)


def assert_same_bits(actual, expected):
    """Equal dtype, shape and bits; any NaN equals any NaN."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    different = np.argwhere(bits(actual) != bits(expected))
    if len(different):
        at = tuple(different[0])
        raise AssertionError(
            f"{len(different)} of {actual.size} differ, first {at}: {actual[at]!r} != {expected[at]!r}"
        )


def samples(shape, dtype, seed=0, wide=True):
    """Values that cancel, with exponents far apart (wide) but sums that stay finite in 16 bits."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.standard_normal(shape)
    if wide:
        values *= np.exp2(rng.integers(-12, 8, shape))
    if len(values) > 2:  # pairs that cancel but for the last bits
        half = len(values) // 2
        values[half : 2 * half : 2] = -values[:half:2] * (1 + 2.0**-9)
    return values.astype(dtype_of(dtype))


def _two_sum(a, b):
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _split(a):
    c = a * 134217729.0
    high = c - (c - a)
    return high, a - high


def two_product(a, b):
    """(p, e) with p + e = a * b exactly, float64, away from overflow and underflow (Dekker 1971)."""
    p = a * b
    (ah, al), (bh, bl) = _split(a), _split(b)
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def _add_to_odd(a, b):
    """a + b in float64, an inexact sum rounded to the neighbour whose last bit is 1."""
    s, error = _two_sum(np.float64(a), np.float64(b))
    s = np.atleast_1d(np.asarray(s, np.float64)).copy()
    error = np.broadcast_to(np.atleast_1d(error), s.shape)
    even = (s.view(np.int64) & 1) == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    return np.where(even & (error != 0), np.nextafter(s, towards), s)


def fma(a, b, c):
    """a * b + c rounded once, for arrays of finite float32 or float64 of moderate size.

    Rounding to odd first makes the second rounding harmless: Boldo and Melquiond 2008,
    doi:10.1109/TC.2007.70819.
    """
    kind = np.asarray(c).dtype
    a, b, c = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (a, b, c)))
    if kind == np.float32:  # 24 + 24 bits: the product is exact
        return _add_to_odd(a * b, c).reshape(c.shape).astype(np.float32)
    high, low = two_product(a, b)
    t, t_error = _two_sum(c, low)
    v, v_error = _two_sum(high, t)
    return v + _add_to_odd(t_error, v_error).reshape(c.shape)


def tree(G, weights=None, reduction="mean"):
    """The sum over the rows of G (B, P), by the text of the design, in the accumulator's dtype."""
    B, P = G.shape
    sums = sums_of(G.dtype.name)
    leaves = G.astype(sums)
    c = None if weights is None else np.asarray(weights).astype(sums)
    if B == 0:
        return np.zeros(P, sums)
    level = _fold(leaves, c)
    while len(level) > 1:
        level = _fold(level, None)
    scale = np.float64(1) / B if reduction == "mean" else np.float64(1)
    return level[0] * sums.type(scale)


def _fold(rows, c):
    """Left folds, from +0, of rows 32k … 32k+31: one a node."""
    nodes = []
    for first, count in ((0, len(rows) // RADIX), (len(rows) // RADIX * RADIX, 1)):
        each = min(RADIX, len(rows) - first)
        if count and each:
            last = first + count * each
            groups = rows[first:last].reshape(count, each, rows.shape[1])
            nodes.append(_fold_each(groups, None if c is None else c[first:last].reshape(count, each)))
    return np.concatenate(nodes)


def _fold_each(groups, c):
    total = np.zeros((len(groups), groups.shape[2]), groups.dtype)
    for k in range(groups.shape[1]):
        total = total + groups[:, k] if c is None else fma(c[:, k, None], groups[:, k], total)
    return total


def squares(values):
    """The sum of the squares of a flat array by the text of the design, in the accumulator's dtype."""
    values = values.astype(sums_of(values.dtype.name))
    chunks = np.zeros((-(-len(values) // CHUNK), CHUNK // WIDTH, WIDTH), values.dtype)
    chunks.reshape(-1)[: len(values)] = values
    lanes = np.zeros((len(chunks), WIDTH), values.dtype)
    for k in range(CHUNK // WIDTH):
        lanes = fma(chunks[:, k], chunks[:, k], lanes)
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    return tree(lanes, reduction="sum")[0]


def joint_squares(tensors):
    """The same of several flat arrays together, whose sums are added up in the same tree."""
    return tree(np.array([[squares(t)] for t in tensors]), reduction="sum")[0]


def longest_path(B):
    """Roundings between a row and the root of the tree."""
    adds = 0
    while True:
        adds += min(B, RADIX)
        B = -(-B // RADIX)
        if B <= 1:
            return adds


def exact(G, weights=None, reduction="mean"):
    """(sum or mean, sum or mean of magnitudes) of each column, from exact products and math.fsum."""
    B, P = G.shape
    values = G.astype(np.float64)
    terms = [values] if weights is None else two_product(np.asarray(weights, np.float64)[:, None], values)
    divisor = B if reduction == "mean" and B else 1
    total = np.array([math.fsum(x for t in terms for x in t[:, j]) for j in range(P)])
    magnitude = np.array([math.fsum(abs(x) for x in terms[0][:, j]) for j in range(P)])
    return total / divisor, magnitude / divisor


def error_bound(B, magnitude, sums):
    """What the tree's roundings, and those of the mean's factor, may add up to."""
    unit = np.finfo(sums).eps / 2
    roundings = longest_path(B) + 3
    return roundings * unit / (1 - roundings * unit) * magnitude + np.finfo(sums).smallest_subnormal


def run_rule(rule, flags, w, g, state, hyper):
    """A rule over flat arrays, element by element, in plain Python. Arrays are changed in place."""
    sums = sums_of(w.dtype.name).type
    values = [sums(hyper[name]) for name in rule.scalars]
    for i in range(len(w)):
        scalars = [sums(x[i]) for x in (w, g, *state)]
        parameters = dict(zip(("w", "g", *rule.state), scalars, strict=True))
        parameters |= dict(zip(rule.scalars, values, strict=True)) | flags | rule.fixed | dict.fromkeys(rule.absent)
        new = rule.function(**parameters)
        if isinstance(new, tuple):
            new = tuple(value for value in new if value is not None)
        for array, value in zip((w, *state), new if isinstance(new, tuple) else (new,), strict=True):
            array[i] = value


def run_two_phases(rule, flags, w, g, state, hyper):
    """The same for a rule with norms: its first phase over all elements, the norms of w and u, then the second."""
    sums = sums_of(w.dtype.name).type
    named = dict(zip(rule.state, state, strict=True))

    def call(function, i, scalars):
        values = {n: sums(x[i]) for n, x in ({"w": w, "g": g} | named).items()}
        return function(**{n: v for n, v in (values | scalars | flags).items() if n in signature(function).parameters})

    scalars = {name: sums(value) for name, value in hyper.items()}
    u = np.zeros(len(w), sums)
    for i in range(len(w)):
        found = call(rule.norm, i, scalars)
        u[i], *new = found if rule.early else (found,)
        for name, value in zip(rule.early, new, strict=True):
            named[name][i] = value
    scalars |= {"w_norm": np.sqrt(squares(w)), "u_norm": np.sqrt(squares(u))}
    late = [named[name] for name in rule.state if name not in rule.early]
    for i in range(len(w)):
        found = call(rule.function, i, scalars)
        for array, value in zip((w, *late), found if late else (found,), strict=True):
            array[i] = value


def nearest(exact_value, kind):
    """The float32 or float64 next to a Fraction, ties to even, away from overflow."""
    guess = kind(float(exact_value))
    candidates = [guess, np.nextafter(guess, kind(np.inf)), np.nextafter(guess, kind(-np.inf))]

    def distance(x):
        return abs(Fraction(float(x)) - exact_value), int(bits(x)) & 1

    return min(candidates, key=distance)
