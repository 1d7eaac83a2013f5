"""LARS and LAMB against the formulas of their papers in float64, and in all that every optimizer does."""

import numpy as np
import pytest

import gdgpu
from support.checks import refused
from support.covering import some, usual
from support.papers import lamb, lars
from support.references import assert_same_bits, dtype_of, samples
from support.tolerances import TOLERANCE, close

STEPS = 200
SHAPES = ((50,), (7, 9), (1,), (0,), (130, 11))
NAMES = ("LARS", "LAMB")


PAPERS = {"LARS": lars, "LAMB": lamb}


def drawn(name, seed):
    """Hyperparameters, all of them, from the ranges that are documented."""
    rng = np.random.default_rng([seed, *name.encode()])
    found = {"lr": 10 ** rng.uniform(-4, -2), "eps": 10 ** rng.uniform(-10, -3), "maximize": bool(seed & 1)}
    found["weight_decay"] = 0.0 if seed % 3 == 0 else 10 ** rng.uniform(-4, -1)
    if name == "LAMB":
        return found | {"betas": tuple(rng.uniform(0, 0.999, 2).tolist())}
    hyper = {"momentum": rng.uniform(0.1, 0.99), "nesterov": bool(seed & 2)}
    return found | hyper | {"trust_coefficient": 10 ** rng.uniform(-3, -1)}


class Reference:
    """Parameters and state of several tensors in float64, as a paper has them."""

    def __init__(self, name, params):
        self.paper, self.t = PAPERS[name], 0
        self.params, self.state = [w.astype("float64") for w in params], [{} for _ in params]

    def step(self, grads, *hyper):
        """hyper: of each tensor, or once for all."""
        self.t += 1
        for k, g in enumerate(grads):
            args = g.astype("float64"), self.state[k], self.t
            self.params[k], self.state[k] = self.paper(self.params[k], *args, **hyper[k % len(hyper)])


def gradients(step, dtype, shapes=SHAPES):
    return [samples(shape, dtype, 10 * (step + 1) + k, wide=False) for k, shape in enumerate(shapes)]


def compare(params, state, reference, dtype):
    """Each tensor and its state, up to the dtype's tolerance."""
    for k, w in enumerate(params):
        if w.size:
            close(w, reference.params[k], dtype)
            assert state.keys() == reference.state[k].keys()
            for name, arrays in state.items():
                close(arrays[k], reference.state[k][name], dtype)


DRAWN = [(name, seed, dtype) for name in NAMES for seed in range(8) for dtype in TOLERANCE]
# In float32 without flags, see `drawn`.
FEW_DRAWN = [(name, seed, dtype) for name, seed, dtype in DRAWN if dtype == "float64" or seed % 4 == 0]


@pytest.mark.parametrize(("name", "seed", "dtype"), usual(DRAWN, FEW_DRAWN))
def test_as_in_the_paper(name, seed, dtype):
    hyper, params = drawn(name, seed), gradients(-1, dtype)
    reference, optimizer = Reference(name, params), getattr(gdgpu, name)(params, **hyper)
    for step in range(STEPS):
        grads = gradients(step, dtype)
        optimizer.step(grads)
        reference.step(grads, hyper)
    compare(params, optimizer.state_dict()["state"], reference, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_groups_have_their_own_hyperparameters_and_every_tensor_its_own_norm(name):
    hypers = [drawn(name, seed) | {"maximize": bool(k & 1)} for k, seed in enumerate((1, 4, 5))]
    params = [[samples((n,), "float64", n, wide=False)] for n in (40, 3, 2000)]
    reference = Reference(name, [w for (w,) in params])
    optimizer = getattr(gdgpu, name)([{"params": w} | h for w, h in zip(params, hypers, strict=True)], lr=1.0)
    for step in range(20):
        grads = [[samples(w.shape, "float64", step, wide=False)] for (w,) in params]
        optimizer.step(grads)
        reference.step([g for (g,) in grads], *hypers)
    for k, (w,) in enumerate(params):
        state = optimizer.state_dict()["state"][k]
        close(w, reference.params[k], "float64")
        for n, (array,) in state.items():
            close(array, reference.state[k][n], "float64")


@pytest.mark.parametrize("where", ("weights", "gradients", "both"))
@pytest.mark.parametrize("decay", (0.0, 0.1))
@pytest.mark.parametrize("name", NAMES)
def test_a_norm_of_zero_gives_the_plain_rate(name, decay, where):
    """What the first step does, and the second, where the weights have moved."""
    hyper = drawn(name, 0) | {"weight_decay": decay, "lr": 0.25, "eps": 1e-3}
    zero, other = np.zeros(20), samples((20,), "float64", 3, wide=False)
    w, g = zero.copy() if where != "gradients" else other.copy(), zero if where != "weights" else other
    reference, optimizer = Reference(name, [w]), getattr(gdgpu, name)(w, **hyper)
    for _ in range(2):
        optimizer.step(g)
        reference.step([g], hyper)
    assert np.isfinite(w).all() and (where != "weights" or (w != 0).all())
    np.testing.assert_allclose(w, reference.params[0], rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_does_not_depend_on_the_gradients_scale(name):
    """What both are for: with eps = 0 a gradient twice as large, by a power of 2, gives the same bits."""
    w, steps = samples((300,), "float32", wide=False), samples((4, 300), "float32", 1, wide=False)
    one, two = w.copy(), w.copy()
    small, large = (getattr(gdgpu, name)(x, 0.01, eps=0) for x in (one, two))
    for g in steps:
        small.step(g)
        large.step(2 * g)
    assert_same_bits(one, two)
    assert (one != w).any()


NARROW = [(name, dtype) for name in NAMES for dtype in ("float16", "bfloat16")]


@pytest.mark.parametrize(("name", "dtype"), usual(NARROW, some(NARROW, together=1)))
def test_masters_are_a_float32_optimizer(name, dtype):
    """Steps and norms are those of the wide weights; the 16-bit ones are their images, to the bit."""
    narrow = samples((700,), dtype, wide=False)
    wide, hyper = narrow.astype("float32"), drawn(name, 2)
    mixed, plain = getattr(gdgpu, name)(narrow, **hyper, master=True), getattr(gdgpu, name)(wide, **hyper)
    for step in range(10):
        g = samples((700,), dtype, step, wide=False)
        mixed.step(g)
        plain.step(g.astype("float32"))
    assert_same_bits(mixed.state_dict()["state"]["master"], wide)
    assert_same_bits(narrow, wide.astype(dtype_of(dtype)))


@pytest.mark.parametrize("name", NAMES)
def test_every_way_of_stepping(name):
    """step_samples is step of the reduced gradient, to the bit, and so are bound steps; lr may be a function."""
    start = gradients(-1, "float32")
    G = [samples((70, *w.shape), "float32", k) for k, w in enumerate(start)]
    grads = [gdgpu.reduce_samples(g) for g in G]
    ways = {
        "step": lambda optimizer: lambda: optimizer.step(grads),
        "step_samples": lambda optimizer: lambda: optimizer.step_samples(G),
        "bind": lambda optimizer: optimizer.bind(grads),
        "bind_samples": lambda optimizer: optimizer.bind_samples(G),
    }
    results = []
    for lr in (lambda steps: 0.5**steps, None):
        for way in ways.values():
            params = [w.copy() for w in start]
            optimizer = getattr(gdgpu, name)(params, lr or 1.0)
            run = way(optimizer)
            for t in range(3):
                optimizer.lr = lr or 0.5**t
                run()
            assert optimizer.steps == 3
            results.append((params, optimizer.state_dict()["state"]))
    (expected, state), *others = results
    assert all((w != old).any() for w, old in zip(expected, start, strict=True) if w.size)
    for params, other_state in others:
        for k, w in enumerate(params):
            assert_same_bits(w, expected[k])
            for key in state:
                assert_same_bits(other_state[key][k], state[key][k])


@pytest.mark.parametrize("name", NAMES)
def test_state_goes_on_where_it_was(name):
    params = gradients(-1, "float32")
    straight = getattr(gdgpu, name)(params, **drawn(name, 5))
    for step in range(3):
        straight.step(gradients(step, "float32"))
    copies = [w.copy() for w in params]
    resumed = getattr(gdgpu, name)(copies, lr=1.0)
    resumed.load_state_dict(straight.state_dict())
    for optimizer in (straight, resumed):
        optimizer.step(gradients(3, "float32"))
    assert resumed.steps == 4
    for one, two in zip(params, copies, strict=True):
        assert_same_bits(one, two)


BAD = [
    *(("LARS", {"momentum": bad}) for bad in (1.0, -0.1, "0.9")),
    *(("LARS", {name: bad}) for name in ("trust_coefficient", "eps", "weight_decay") for bad in (-1e-3, np.inf)),
    *(("LARS", {name: bad}) for name in ("nesterov", "maximize") for bad in (1, None)),
    ("LARS", {"nesterov": True, "momentum": 0}),
    *(("LAMB", {"betas": bad}) for bad in ((0.9, 1.0), (-0.1, 0.9), (0.9,), 0.9, ("0.9", 0.9))),
    *(("LAMB", {name: bad}) for name in ("eps", "weight_decay", "lr") for bad in (-1e-3, np.nan, None)),
    ("LAMB", {"maximize": 0}),
]


@pytest.mark.parametrize(("name", "bad"), BAD, ids=str)
def test_bad_hyperparameters_are_named(name, bad):
    with refused(next(iter(bad))):
        getattr(gdgpu, name)(np.zeros(3), **{"lr": 0.1} | bad)


def test_states_of_two_phases_are_not_kept_in_8_bits():
    with refused("state_dtype"):
        gdgpu.LAMB(np.zeros(3, np.float32), state_dtype="uint8")
