"""minibatches: an independent derivation of the order, and what each epoch's batches add up to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gdgpu


def rows(*arrays, **how):
    return list(gdgpu.minibatches(*arrays, **how))


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (1, 0), (7, 123), (2**40, 3)])
def test_order_is_pcg64_seeded_with_seed_and_epoch(seed, epoch):
    X, t = np.arange(30.0).reshape(10, 3), np.arange(10)
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(10)
    batches = rows(X, t, batch_size=4, seed=seed, epoch=epoch)
    assert [len(b) for b, _ in batches] == [4, 4, 2]
    for k, (X_batch, t_batch) in enumerate(batches):
        expected = order[4 * k : 4 * k + 4]
        np.testing.assert_array_equal(t_batch, expected)
        np.testing.assert_array_equal(X_batch, X[expected])


@given(
    n=st.integers(0, 70),
    batch_size=st.integers(1, 80) | st.just("full"),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 2**64),
)
def test_every_sample_once_and_batches_whole(n, batch_size, shuffle, drop_last, seed):
    how = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last, "seed": seed}
    batches = [t for (t,) in rows(np.arange(n), **how)]
    size = n if batch_size == "full" else batch_size
    whole, rest = divmod(n, size) if n else (0, 0)
    assert [len(t) for t in batches] == [size] * whole + [rest] * (rest > 0 and not drop_last)
    seen = np.concatenate(batches) if batches else np.array([], int)
    assert len(set(seen.tolist())) == len(seen)
    if not drop_last:
        assert sorted(seen.tolist()) == list(range(n))
    if not shuffle:
        assert seen.tolist() == list(range(len(seen)))


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch, size=8):
        return np.concatenate([t for (t,) in rows(np.arange(64), batch_size=size, seed=seed, epoch=epoch)]).tolist()

    assert order(3, 5) == order(3, 5) == order(3, 5, size=64)
    assert len({tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_without_shuffle_batches_are_views():
    X = np.zeros((5, 2))
    for (batch,) in gdgpu.minibatches(X, batch_size=2, shuffle=False):
        batch += 1
    assert (X == 1).all()


def test_memory_mapped_arrays_give_the_batches_of_arrays(tmp_path):
    X = np.arange(42.0).reshape(14, 3)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for shuffle in (True, False):
        for (a,), (b,) in zip(
            rows(mapped, batch_size=4, shuffle=shuffle), rows(X, batch_size=4, shuffle=shuffle), strict=True
        ):
            np.testing.assert_array_equal(a, b)


class OnDevice:
    """An array that takes indices of its own kind only, and counts how often they were copied to it."""

    __module__ = "cupy"  # the module that its type says it comes from decides
    shape = (6,)

    def __init__(self, values, entered):
        self.values, self.entered = values, entered
        self.device = self

    def __enter__(self):
        self.entered.append(self)

    def __exit__(self, *_):
        pass

    def __getitem__(self, index):
        assert isinstance(index, OnDevice | slice)
        values = index.values if isinstance(index, OnDevice) else index
        return OnDevice(self.values[values], self.entered)


def test_indices_move_to_the_device_of_the_array_once_an_epoch(monkeypatch):
    entered = []
    cupy = type("cupy", (), {"asarray": staticmethod(lambda order: OnDevice(order, entered))})
    monkeypatch.setitem(__import__("sys").modules, "cupy", cupy)
    batches = rows(OnDevice(np.arange(6) * 10, entered), np.arange(6), batch_size=2)
    assert len(batches) == 3 and len(entered) == 1
    for on_device, on_host in batches:
        np.testing.assert_array_equal(on_device.values, 10 * on_host)


FIVE = np.zeros(5)
BAD = [
    ((FIVE, np.zeros(4)), {}, ValueError, r"arrays: .*lengths 5, 4"),
    ((), {}, ValueError, r"arrays: "),
    ((FIVE, [1, 2]), {}, TypeError, r"arrays\[1\]: .*list"),
    ((np.float64(3),), {}, TypeError, r"arrays\[0\]: .*no axes"),
    ((FIVE,), {"batch_size": 0}, ValueError, r'batch_size: expected an int >= 1 or "full", got 0'),
    ((FIVE,), {"batch_size": -3}, ValueError, r"batch_size: .*got -3"),
    ((FIVE,), {"batch_size": 2.0}, TypeError, r"batch_size: .*got 2\.0"),
    ((FIVE,), {"batch_size": True}, TypeError, r"batch_size: .*got True"),
    ((FIVE,), {"batch_size": "half"}, TypeError, r"batch_size: .*got 'half'"),
    ((FIVE,), {"batch_size": np.zeros((3, 3))}, TypeError, r"batch_size: .*got ndarray"),
    ((FIVE,), {"seed": -1}, ValueError, r"seed: .*got -1"),
    ((FIVE,), {"seed": None}, TypeError, r"seed: .*got None"),
    ((FIVE,), {"epoch": 0.5}, TypeError, r"epoch: .*got 0\.5"),
    ((FIVE,), {"shuffle": "no"}, TypeError, r"shuffle: .*got 'no'"),
    ((FIVE,), {"drop_last": 1}, TypeError, r"drop_last: .*got 1"),
]


@pytest.mark.parametrize(("arrays", "how", "error", "message"), BAD)
def test_bad_input_is_named_at_the_call(arrays, how, error, message):
    with pytest.raises(error, match=f"^{message}") as caught:
        gdgpu.minibatches(*arrays, **{"batch_size": 2, **how})
    assert "\n" not in str(caught.value)


def test_numpy_integers_are_ints():
    how = {"seed": np.int64(3), "epoch": np.uint8(1)}
    numpy_ints = rows(np.arange(9), batch_size=np.int32(4), **how)
    for (a,), (b,) in zip(numpy_ints, rows(np.arange(9), batch_size=4, seed=3, epoch=1), strict=True):
        np.testing.assert_array_equal(a, b)
