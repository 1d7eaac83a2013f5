"""One buffer for many arrays: what it holds, where its views lie, and that an optimizer over it has the same bits."""

import numpy as np
import pytest

import gdgpu
from support.arrays import OnlyDLPack, readonly, shifted
from support.checks import refused
from support.optimizers import schedule
from support.references import DTYPES, assert_same_bits, dtype_of, samples
from support.structures import arrays, leaves, mapped

LIST = [(3, 5), (), (0,), (7,), (2, 0, 4), (1,), (129,)]
SHAPES = {
    "array": (5, 3),
    "scalar": (),
    "empty": (0, 3),
    "list": LIST,
    "dict": {"b": (3, 5), "a": (7,), "c": (0,), "d": ()},
    "groups": [(9,), LIST, {"w": (3, 3), "b": (3,)}],
}


def filled(structure, dtype, seed=0):
    """Arrays of this structure; of groups, a list with one structure a group."""
    if structure == "groups":
        return [arrays(part, seed + 10 * k, (dtype,)) for k, part in enumerate(SHAPES["groups"])]
    return arrays(SHAPES[structure], seed, (dtype,))


def as_params(structure, tree, **options):
    return [{"params": part} | options for part in tree] if structure == "groups" else tree


def same_structure(one, two):
    if isinstance(two, dict | list):
        assert type(one) is type(two) and len(one) == len(two)
        if isinstance(two, dict):
            assert list(one) == list(two)
            one, two = list(one.values()), list(two.values())
        for a, b in zip(one, two, strict=True):
            same_structure(a, b)
    else:
        assert type(one) is type(two)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("structure", SHAPES)
def test_views_hold_copies_at_multiples_of_16_bytes(structure, dtype):
    given = filled(structure, dtype)
    flat, views = gdgpu.flatten(as_params(structure, given))
    same_structure(views, given)
    assert flat.dtype == dtype_of(dtype) and flat.ndim == 1 and flat.flags.c_contiguous and flat.flags.writeable
    covered = np.zeros(len(flat), int)
    for view, array in zip(leaves(views), leaves(given), strict=True):
        assert_same_bits(view, array)
        assert not np.shares_memory(view, array)
        if view.size:
            assert view.flags.c_contiguous and view.ctypes.data % 16 == 0 and np.shares_memory(view, flat)
            start = (view.ctypes.data - flat.ctypes.data) // flat.itemsize
            covered[start : start + view.size] += 1
    assert covered.max(initial=0) <= 1
    assert (flat[covered == 0] == 0).all() and (covered == 0).sum() < len(leaves(given)) * 16 / flat.itemsize


def test_writing_through_one_shows_in_the_other():
    params = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.float32)}
    flat, views = gdgpu.flatten(params)
    views["a"][...] = 1
    views["b"] += 2
    assert flat.sum() == 6 + 10
    flat[...] = 7
    assert (views["a"] == 7).all() and (views["b"] == 7).all() and (params["a"] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("structure", ("list", "dict", "groups"))
@pytest.mark.parametrize(
    ("name", "hyper"), [("Momentum", {"lr": schedule, "nesterov": True}), ("Adam", {"lr": 0.1, "weight_decay": 0.1})]
)
def test_an_optimizer_over_the_flat_array_has_the_same_bits(name, hyper, structure, dtype):
    given = filled(structure, dtype)
    flat, views = gdgpu.flatten(as_params(structure, given))
    flat_grads, grads = gdgpu.flatten(as_params(structure, filled(structure, dtype, 1)))
    assert flat_grads.shape == flat.shape
    one = getattr(gdgpu, name)(flat, **hyper)
    apart = getattr(gdgpu, name)(as_params(structure, given), **hyper)
    for seed in (2, 3, 4):
        for target, source in zip(leaves(grads), leaves(filled(structure, dtype, seed)), strict=True):
            target[...] = source
        one.step(flat_grads)
        apart.step(grads)
    for view, array in zip(leaves(views), leaves(given), strict=True):
        assert_same_bits(view, array)
    gaps = flat.copy()
    flat[...] = 0
    for view in leaves(views):
        view[...] = 1
    assert (gaps[flat == 0] == 0).all()  # no gradient ever reaches them


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("structure", ("array", "list", "dict", "groups"))
def test_torch_tensors(structure, dtype):
    torch = pytest.importorskip("torch", reason="torch tensors in, torch tensors out")

    def tensor(array):
        return torch.from_numpy(array.astype(np.float64)).to(getattr(torch, dtype))

    given = filled(structure, dtype)
    tensors = [mapped(tensor, part) for part in given] if structure == "groups" else mapped(tensor, given)
    flat, views = gdgpu.flatten(as_params(structure, tensors))
    assert isinstance(flat, torch.Tensor) and flat.dtype == getattr(torch, dtype) and flat.device.type == "cpu"
    same_structure(views, tensors)
    for view, array in zip(leaves(views), leaves(tensors), strict=True):
        assert view.shape == array.shape and torch.equal(view, array)
        assert view.numel() == 0 or (view.data_ptr() % 16 == 0 and view.data_ptr() != array.data_ptr())
    gdgpu.SGD(flat, 1.0).step(torch.ones_like(flat))
    for view, array in zip(leaves(views), leaves(tensors), strict=True):
        assert torch.equal(view, array - 1)


def test_arrays_that_only_speak_dlpack_are_copied_into_numpys():
    one, two = samples((5,), "float32"), samples((3, 2), "float32")
    flat, views = gdgpu.flatten([OnlyDLPack(one), OnlyDLPack(two)])
    assert type(flat) is np.ndarray
    assert_same_bits(views[0], one)
    assert_same_bits(views[1], two)


def test_what_is_read_may_be_read_only_and_overlap():
    wide = readonly(np.arange(6.0))
    flat, views = gdgpu.flatten([wide[:4], wide[2:]])
    assert flat.tolist() == [0, 1, 2, 3, 2, 3, 4, 5] and views[1].flags.writeable


def torch_zeros(**options):
    return pytest.importorskip("torch", reason="torch tensors").zeros(3, **options)


REFUSED = {
    "nothing": lambda: [],
    "no tensors": lambda: {},
    "empty groups": lambda: [{"params": []}, {"params": {}}],
    "two dtypes": lambda: [np.zeros(3), np.zeros(3, np.float32)],
    "two dtypes in groups": lambda: [{"params": np.zeros(3)}, {"params": np.zeros(3, np.float32)}],
    "two libraries": lambda: [np.zeros(3, np.float32), torch_zeros()],
    "two libraries, torch first": lambda: [torch_zeros(), np.zeros(3, np.float32)],
    "requires grad": lambda: torch_zeros(requires_grad=True),
    "every second": lambda: [np.zeros(3), np.zeros(6)[::2]],
    "transposed": lambda: {"a": np.zeros((3, 4)).T},
    "between elements": lambda: shifted(np.zeros(4)),
    "integers": lambda: np.zeros(3, int),
    "a number": lambda: 1.0,
    "none": lambda: None,
    "nested": lambda: {"a": {"b": np.zeros(3)}},
    "a group without params": lambda: [{"params": np.zeros(3)}, {"lr": 0.1}],
}


@pytest.mark.parametrize("case", REFUSED)
def test_parameters_that_are_refused(case):
    with refused("params"):
        gdgpu.flatten(REFUSED[case]())
