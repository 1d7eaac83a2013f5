"""What surrounds a step: scaling, clipping and zeroing of gradients, against NumPy and torch."""

import itertools

import numpy as np
import pytest

import gdgpu
from support.arrays import arrays, copies
from support.covering import all_pairs, usual
from support.grad_scaling import prepared
from support.optimizers import OPTIMIZERS, make, snapshot
from support.references import DTYPES, assert_same_bits, samples
from support.skeletons import one_of_each, skeleton
from support.tolerances import close

SHAPES = ((300,), (7, 9), (), (0,), (1100,))
SCALES = {
    "a number": lambda value: value,
    "of no axes": lambda value: np.array(value, np.float32),
    "of one": lambda value: np.full(1, value, np.float32),
}
KEYWORDS = {"grad_scale": 3.0, "clip_value": 0.5, "clip_norm": 2.0, "found_inf": False, "zero_grads": True}
ALL = ["+".join(names) for n in range(len(KEYWORDS) + 1) for names in itertools.combinations(KEYWORDS, n)]
PAIRS = ["+".join(itertools.compress(KEYWORDS, on)) for on in all_pairs(*[(False, True)] * len(KEYWORDS))]


def compare(label, dtypes, asked, steps=3, **common):
    """Steps with these keywords, and steps of the same optimizer with gradients prepared in NumPy: the same bits."""
    params = arrays(SHAPES, dtypes, 1)
    plain = copies(params)
    one, two = (make(label, some, **common) for some in (params, plain))
    before = {n: v for n, v in asked.items() if n in ("grad_scale", "clip_value", "clip_norm")}
    for step in range(steps):
        grads = arrays(SHAPES, dtypes, 100 * (step + 1))
        given = copies(grads)
        one.step(given, **asked)
        two.step(prepared(grads, **before))
        for g, old in zip(given, grads, strict=True):
            assert_same_bits(g, np.zeros_like(old) if "zero_grads" in asked else old)
    assert snapshot(one) == snapshot(two)
    assert one.steps == steps


@pytest.mark.parametrize("names", usual(ALL, PAIRS))
def test_all_combinations(names):
    compare("Momentum", ["float32"] * len(SHAPES), {name: KEYWORDS[name] for name in names.split("+") if name})


@pytest.mark.parametrize("label", usual(OPTIMIZERS, one_of_each(skeleton)))
def test_everything_at_once_with_every_optimizer(label):
    compare(label, ["float32"] * len(SHAPES), KEYWORDS)


@pytest.mark.parametrize("kind", SCALES)
def test_a_scale_may_be_a_number_or_an_array_of_one(kind):
    asked = KEYWORDS | {"grad_scale": SCALES[kind](3.0), "found_inf": SCALES[kind](False)}
    compare("Momentum", ["float32"] * len(SHAPES), asked)


EVERY_DTYPE = [(label, dtype) for label in ("Momentum", "LAMB") for dtype in DTYPES]


@pytest.mark.parametrize(("label", "dtype"), usual(EVERY_DTYPE, EVERY_DTYPE[: len(DTYPES)]))
def test_everything_at_once_in_every_dtype(label, dtype):
    compare(label, [dtype] * len(SHAPES), KEYWORDS)


@pytest.mark.parametrize("label", usual(("Momentum", "Adam"), ("Momentum",)))
def test_several_dtypes_together(label):
    """One norm over launches of several dtypes; without it also float64 beside the others."""
    compare(label, ["float32", "bfloat16", "float16", "float32", "float32"], KEYWORDS)
    asked = {n: v for n, v in KEYWORDS.items() if n != "clip_norm"}
    compare(label, ["float32", "bfloat16", "float64", "float16", "float64"], asked)


@pytest.mark.parametrize(
    "common", [{"state_dtype": "uint8"}, {"state_dtype": "bfloat16"}, {"ema": 0.5}, {"master": True}], ids=str
)
def test_everything_at_once_with_other_storage(common):
    compare("Adam", ["bfloat16" if "master" in common else "float32"] * len(SHAPES), KEYWORDS, **common)


def test_groups_are_clipped_together():
    w, g = arrays(((40,), (50,)), ["float32"] * 2, 1), arrays(((40,), (50,)), ["float32"] * 2, 2)
    expected = copies(w)
    options = {"lr": 0.25, "momentum": 0.5, "maximize": True}
    one, two = (gdgpu.Momentum([{"params": [a]} | options, {"params": [b]}], 0.1) for a, b in (w, expected))
    one.step([[x] for x in g], clip_norm=1.0, grad_scale=2.0)
    two.step([[x] for x in prepared(g, grad_scale=2.0, clip_norm=1.0)])
    for a, b in zip(w, expected, strict=True):
        assert_same_bits(a, b)


def test_a_bound_step_reads_the_arrays_when_it_runs():
    params, grads = arrays(SHAPES, ["float32"] * 5, 1), arrays(SHAPES, ["float32"] * 5, 2)
    plain, scale, found = copies(params), np.ones(1, np.float32), np.zeros((), np.float32)
    one, two = (make("Adam", some) for some in (params, plain))
    run = one.bind(grads, grad_scale=scale, found_inf=found, clip_norm=2.0)
    for scale[0], found[...] in ((2.0, 0), (0.5, 1), (64.0, 0), (3.0, 0)):
        before = snapshot(one)
        run()
        if found:
            assert snapshot(one) == before
        else:
            two.step(prepared(grads, float(scale[0]), clip_norm=2.0))
        for g in grads:
            g *= 1.5
    assert snapshot(one) == snapshot(two) and one.steps == 3


def test_a_call_does_not_inherit_what_another_asked_for():
    params, grads = arrays(SHAPES, ["float32"] * 5, 1), arrays(SHAPES, ["float32"] * 5, 2)
    plain = copies(params)
    one, two = (make("Adam", some) for some in (params, plain))
    calls = [{"clip_norm": 0.5}, {}, {"clip_norm": 2.0}, {"grad_scale": 7.0}, {"clip_value": 0.1, "grad_scale": 2}, {}]
    bound = [one.bind(grads, **asked) for asked in calls]
    for asked, run in zip(calls, bound, strict=True):
        for call in (run, lambda a=asked: one.step(grads, **a), run):
            call()
            two.step(prepared(grads, **asked))
            assert snapshot(one) == snapshot(two)


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_clip_value_as_torch_has_it_where_gradients_are_not_finite(bad):
    """Infinities come to the limit, NaN stays."""
    torch = pytest.importorskip("torch", reason="clip_grad_value_ is the reference")
    g = samples((50,), "float32", wide=False)
    g[[3, 30]] = bad
    theirs = torch.zeros(50, requires_grad=True)
    theirs.grad = torch.from_numpy(g.copy())
    torch.nn.utils.clip_grad_value_([theirs], 0.25)
    w = np.zeros(50, np.float32)
    gdgpu.SGD(w, 1.0).step(g, clip_value=0.25)
    np.testing.assert_array_equal(w, -theirs.grad.numpy())


@pytest.mark.parametrize("clip_norm", (0.0, 0.01, 1.0, 1e6))
def test_clip_norm_as_torch_has_it(clip_norm):
    """torch divides by norm + 1e-6."""
    torch = pytest.importorskip("torch", reason="clip_grad_norm_ is the reference")
    grads = arrays(SHAPES, ["float64"] * 5, 1)
    theirs = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in grads]
    for p, g in zip(theirs, grads, strict=True):
        p.grad = torch.from_numpy(np.array(g))
    norm = float(torch.nn.utils.clip_grad_norm_(theirs, clip_norm))
    params = [np.zeros(g.shape) for g in grads]
    gdgpu.SGD(params, 1.0).step(grads, clip_norm=clip_norm if clip_norm > norm else clip_norm * norm / (norm + 1e-6))
    for w, p in zip(params, theirs, strict=True):
        np.testing.assert_allclose(w, -p.grad.numpy(), rtol=1e-12)


def test_in_the_place_of_torchs_grad_scaler():
    """Its scale and what it finds, step by step, with gradients that overflow now and then."""
    torch = pytest.importorskip("torch", reason="torch.amp.GradScaler is the reference")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    theirs = torch.from_numpy(samples((40,), "float32", wide=False)).requires_grad_()
    w = theirs.detach().numpy().copy()
    reference = torch.optim.Adam([theirs], 0.05)
    scale, found = np.zeros(1, np.float32), np.zeros(1, np.float32)
    ours, g = gdgpu.Adam(w, 0.05), np.zeros(40, np.float32)
    run, skipped = ours.bind(g, grad_scale=scale, found_inf=found, zero_grads=True), 0
    for step in range(12):
        slope = samples((40,), "float32", step + 1, wide=False)
        slope[7] = np.inf if step in (0, 5, 6, 11) else slope[7]
        scaler.scale((theirs * torch.from_numpy(slope)).sum()).backward()
        g[...], scale[0] = theirs.grad.numpy(), scaler.get_scale()
        found[0] = not np.isfinite(g).all()
        skipped += int(found[0])
        run()
        scaler.step(reference)
        scaler.update()
        reference.zero_grad()
        assert not g.any()
        close(w, theirs.detach().numpy(), "float32")
    assert skipped == 4 and ours.steps == 8
