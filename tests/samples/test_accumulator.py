"""A batch added in pieces has the bits of the whole batch, wherever it was cut."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gdgpu
from support.references import DTYPES, assert_same_bits, samples, sums_of, tree


def weights_for(B):
    return np.random.default_rng(B).standard_normal(B).astype(np.float32)


def pieces(array, cuts):
    return np.split(array, np.cumsum(cuts)[:-1])


@settings(max_examples=120, deadline=None)
@given(
    cuts=st.lists(st.one_of(st.integers(0, 5), st.sampled_from([31, 32, 33, 64, 500, 1024])), min_size=1, max_size=12),
    P=st.integers(0, 20),
    dtype=st.sampled_from(DTYPES),
    weighted=st.lists(st.booleans(), min_size=12, max_size=12),
    reduction=st.sampled_from(["mean", "sum"]),
)
@example(cuts=[1] * 70, P=3, dtype="float32", weighted=[False] * 70, reduction="mean")
@example(cuts=[1023, 1, 1, 31, 0, 1000], P=3, dtype="float64", weighted=[True] * 6, reduction="sum")
def test_any_cuts(cuts, P, dtype, weighted, reduction):
    B = sum(cuts)
    G = samples((B, P), dtype)
    weights = weights_for(B)
    accumulator = gdgpu.Accumulator(G[:0].sum(axis=0))
    for g, c, with_weights in zip(pieces(G, cuts), pieces(weights, cuts), weighted, strict=False):
        accumulator.add(g, c if with_weights else None)
        if not with_weights:
            c[:] = 1  # fma(1, g, acc) is acc + g
    assert accumulator.count == B
    assert_same_bits(accumulator.result(reduction), tree(G, weights, reduction))


@pytest.mark.parametrize("dtype", DTYPES)
def test_four_levels(dtype):
    G = samples((33_000, 3), dtype)
    accumulator = gdgpu.Accumulator(G[0])
    for g in pieces(G, [7, 1017, 30_000, 1744, 1, 231]):
        accumulator.add(g)
    assert_same_bits(accumulator.result(), gdgpu.reduce_samples(G))
    assert_same_bits(accumulator.result(), tree(G))


@pytest.mark.parametrize("threads", (1, 2, 3, 5))
def test_the_number_of_threads_changes_nothing(threads, use_threads):
    use_threads(threads)
    G = samples((70, 40_000), "float32")
    accumulator = gdgpu.Accumulator(G[0])
    for g in pieces(G, [33, 0, 37]):
        accumulator.add(g)
    assert_same_bits(accumulator.result(), tree(G))


def test_results_on_the_way_and_reset():
    G = samples((200, 4), "float32")
    accumulator = gdgpu.Accumulator(G[0])
    assert_same_bits(accumulator.result(), np.zeros(4, np.float32))
    for last in range(1, 201):
        accumulator.add(G[last - 1 : last])
        assert_same_bits(accumulator.result("sum"), tree(G[:last], reduction="sum"))
        assert_same_bits(accumulator.result("mean"), tree(G[:last]))
    accumulator.reset()
    assert accumulator.count == 0
    accumulator.add(G[50:60])
    assert_same_bits(accumulator.result(), tree(G[50:60]))


@pytest.mark.parametrize("structure", ("list", "tuple", "dict"))
def test_many_tensors(structure):
    shapes = {"a": (3, 4), "b": (), "c": (0, 2), "d": (130,)}
    dtypes = dict(zip(shapes, DTYPES, strict=True))
    params = {k: np.zeros(shapes[k], samples((1,), dtypes[k]).dtype) for k in shapes}
    G = {k: samples((77, *shapes[k]), dtypes[k]) for k in shapes}
    weights = weights_for(77)

    def as_structure(tensors):
        return tensors if structure == "dict" else {"list": list, "tuple": tuple}[structure](tensors.values())

    accumulator = gdgpu.Accumulator(as_structure(params))
    for first, last in ((0, 40), (40, 41), (41, 77)):
        # keys in another order name the same tensors
        piece = {k: G[k][first:last] for k in reversed(G)} if structure == "dict" else None
        accumulator.add(piece or as_structure({k: G[k][first:last] for k in G}), weights[first:last])
    result = accumulator.result()
    assert type(result) is (dict if structure == "dict" else list)
    result = result if structure == "dict" else dict(zip(shapes, result, strict=True))
    for k, g in G.items():
        expected = tree(g.reshape(77, params[k].size), weights).reshape(shapes[k])
        assert_same_bits(result[k], expected)
        assert result[k].dtype == sums_of(dtypes[k])


@pytest.mark.parametrize("step", (1, 3, -2))
def test_strided_pieces(step):
    wide = samples((99 * abs(step), 11), "bfloat16")
    G = wide[::step, 2:9]
    accumulator = gdgpu.Accumulator(np.zeros(7, np.float32))
    accumulator.add(G[:50])
    accumulator.add(G[50:])
    assert_same_bits(accumulator.result(), tree(G))


REFUSED = {
    "shape": (lambda g, c: (g[:, :3], c), ValueError, "G"),
    "float64": (lambda g, c: (g.astype("float64"), c), TypeError, "G"),
    "structure": (lambda g, c: ([g], c), TypeError, "G"),
    "weights too short": (lambda g, c: (g, c[1:]), ValueError, "weights"),
    "weights of text": (lambda g, c: (g, ["a"] * len(c)), TypeError, "weights"),
    "not an array": (lambda g, c: (None, c), TypeError, "G"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_leaves_it_as_it_was(case):
    change, error, name = REFUSED[case]
    G, weights = samples((40, 4), "float32"), weights_for(40)
    accumulator = gdgpu.Accumulator(np.zeros(4, np.float32))
    accumulator.add(G[:30], weights[:30])
    with pytest.raises(error, match=rf"\A{name}.*: .*\Z"):
        accumulator.add(*change(G[:7], weights[:7]))
    accumulator.add(G[30:], weights[30:])
    assert accumulator.count == 40
    assert_same_bits(accumulator.result(), tree(G, weights))
    with pytest.raises(ValueError, match=r"\Areduction: .*\Z"):
        accumulator.result("avg")
