"""One owner, several Python threads: calls come one after the other, or raise; none is lost, none is torn."""

import gc
import os
import signal
import sys
import threading
import weakref

import numpy as np
import pytest

import gdgpu
from gdgpu import checkpoint
from gdgpu.kernels import launch
from support.threads import together


@pytest.mark.parametrize("count", (1, 2))
def test_a_checkpoint_is_of_one_moment(count, use_threads, tmp_path):
    """Parameters, state and count of the same step, saved and loaded while other threads step."""
    use_threads(count)
    w = np.zeros(40_000, np.float32)
    optimizer, ones, done = gdgpu.Momentum(w, 1.0, momentum=0.0), np.ones(40_000, np.float32), threading.Event()

    def steps():
        while not done.is_set():
            optimizer.step(ones)

    def saves():
        try:
            for k in range(25):
                path = tmp_path / f"{k}.safetensors"
                checkpoint.save_optimizer(path, optimizer)
                tensors, text = checkpoint.load(path)
                assert set(tensors["params"].tolist()) == {-float(text["steps"])}
                if k % 5 == 4:
                    checkpoint.load_optimizer(tmp_path / f"{k - 2}.safetensors", optimizer)
        finally:
            done.set()

    together(steps, saves)
    assert (w == -optimizer.steps).all()


def test_a_models_calls_from_two_threads(use_threads):
    use_threads(2)
    rng = np.random.default_rng(0)
    X, t = rng.standard_normal((300, 40)).astype(np.float32), rng.standard_normal(300).astype(np.float32)
    linear, network = gdgpu.models.LinearRegression, gdgpu.models.MLP
    for model in (linear(40, device="cpu"), network((40, 8, 1), loss="squared", device="cpu")):
        wanted = {rows: model.gradient(X[:rows], t[:rows], max_norm=1.0) for rows in (300, 100)}
        norms = model.sample_norms(X, t)

        def work(rows, model=model, wanted=wanted, norms=norms):
            for _ in range(60):
                loss, grads = model.gradient(X[:rows], t[:rows], max_norm=1.0)
                assert loss == wanted[rows][0]
                for name, array in grads.items():
                    assert np.array_equal(array, wanted[rows][1][name])
                assert np.array_equal(model.sample_norms(X, t), norms)

        together(lambda work=work: work(300), lambda work=work: work(100))


def test_a_call_inside_of_another_is_refused():
    """A rate that is a function may ask for the count of steps; it cannot take one."""
    w = np.ones(4, np.float32)
    inner = []

    def rate(t):
        if optimizer is not None:
            assert optimizer.steps == t
            for call in (
                lambda: optimizer.step(np.ones(4, np.float32)),
                lambda: run(),
                lambda: optimizer.state_dict(),
                lambda: setattr(optimizer, "lr", 0.5),
                lambda: setattr(optimizer, "steps", 7),
            ):
                with pytest.raises(RuntimeError, match=r"\ASGD: called while another call of it is at work[^\n]*\Z"):
                    call()
                inner.append(call)
        return 0.25

    optimizer = None
    optimizer = gdgpu.SGD(w, rate)
    run = optimizer.bind(np.ones(4, np.float32))
    optimizer.step(np.ones(4, np.float32))
    run()
    assert len(inner) == 10 and (w == 0.5).all() and optimizer.steps == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_another_threads_call():
    """The child does not wait for a thread that it has not: that owner says so, others go on."""
    w, g, began, end = np.ones(4), np.ones(4), threading.Event(), threading.Event()

    def rate(t):
        if t == 1:
            began.set()
            assert end.wait(60)
        return 0.5

    optimizer, other = gdgpu.SGD(w, rate), gdgpu.SGD(w.copy(), 0.5)
    optimizer.step(g)
    run = optimizer.bind(np.ones(4))
    thread = threading.Thread(target=lambda: optimizer.step(g))
    thread.start()
    assert began.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        said = 0
        for call in (run, lambda: optimizer.step(g), optimizer.state_dict, lambda: setattr(optimizer, "lr", 1.0)):
            try:
                call()
            except RuntimeError as error:
                said += "forked" in str(error)
        other.step(g)
        os._exit(0 if said == 4 else 1)
    status = os.waitpid(child, 0)[1]
    end.set()
    thread.join()
    assert status == 0 and optimizer.steps == 2


def used(kind):
    """Something that was used in every way, and arrays that it holds."""
    w, g = np.ones(50, np.float32), np.ones(50, np.float32)
    G = np.ones((6, 50), np.float32)
    if kind == "accumulator":
        sums = gdgpu.Accumulator(w)
        sums.add(G, max_norm=1.0)
        sums.result()
        return sums, sums._sums[1]
    if kind in ("linear", "mlp"):
        new, sizes = {"linear": (gdgpu.models.LinearRegression, 50), "mlp": (gdgpu.models.MLP, (50, 4, 2))}[kind]
        model = new(sizes, device="cpu")
        t = np.arange(6) % 2
        optimizer = gdgpu.Adam(model.params, 0.1)
        model.step(G, t, optimizer)
        model.step(G, t, optimizer, max_norm=1.0)
        model.sample_norms(G, t)
        return model, list(model.params.values())
    options = {"uint8": {"state_dtype": "uint8", "rounding": "stochastic"}, "ema": {"ema": 0.9}}.get(kind, {})
    new = getattr(gdgpu, kind if hasattr(gdgpu, kind) else "Adam")
    optimizer = new([{"params": w, "lr": 0.5}, {"params": g.copy()}], lr=lambda t: 0.1, **options)
    optimizer.step([g, g], clip_norm=1.0)
    optimizer.step([g, g.copy()], found_inf=False, zero_grads=True)
    optimizer.step_samples([G, G], max_norm=1.0)
    optimizer.bind([g, g.copy()])()
    optimizer.bind_samples([G, G])()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step([g, g])
    return optimizer, [w, *(state.array for states in optimizer._engine.state for state in states)]


@pytest.mark.parametrize("kind", ("SGD", "Adam", "LAMB", "uint8", "ema", "accumulator", "linear", "mlp"))
def test_what_is_dropped_is_gone_at_once(kind):
    """No cycle waits for the garbage collector, which counts objects, not bytes."""
    used(kind)  # compiles
    gc.collect()
    gc.disable()
    try:
        owner, arrays = used(kind)
        watched = [weakref.ref(owner), *map(weakref.ref, arrays)]
        del owner, arrays
        assert [ref() for ref in watched] == [None] * len(watched)
    finally:
        gc.enable()


def test_a_model_does_not_hold_the_optimizers_that_stepped_it():
    model = gdgpu.models.LinearRegression(5, device="cpu")
    X, t = np.ones((6, 5), np.float32), np.ones(6, np.float32)
    first = gdgpu.SGD(model.params, 0.5)
    model.step(X, t, first)
    watched, state = weakref.ref(first), model.params["weight"].copy()
    del first
    assert watched() is None
    expected = gdgpu.models.LinearRegression(5, device="cpu")
    for name in expected.params:
        expected.params[name][...] = model.params[name]
    for m in (model, expected):
        m.step(X, t, gdgpu.Momentum(m.params, 0.25))
    assert np.array_equal(model.params["weight"], expected.params["weight"])
    assert not np.array_equal(model.params["weight"], state)


def test_a_group_outlives_its_optimizer():
    group = gdgpu.SGD(np.ones(3), 0.5).groups[0]
    with pytest.raises(ReferenceError, match="gone"):
        group.lr = 0.25
    assert sys.getrefcount(group) < 10


def test_a_rate_may_ask_the_model():
    model = gdgpu.models.LinearRegression(3, device="cpu")
    X, t = np.ones((4, 3), np.float32), np.ones(4, np.float32)
    optimizer = gdgpu.SGD(model.params, lambda step: 0.01 if float(model.loss(X, t)) > 0.5 else 0.001)
    for _ in range(3):
        model.step(X, t, optimizer)
    gdgpu.fit(model, X, t, optimizer, batch_size=2, epochs=2)
    assert optimizer.steps == 7


def test_an_optimizer_that_is_no_key():
    class Equal(gdgpu.SGD):
        def __eq__(self, other):
            return True

    Equal(np.ones(3), 0.5).step(np.ones(3))


def test_finalizers_may_call():
    """The collector clears weak references before it calls them."""
    said = []

    class Trainer:
        def __init__(self):
            self.w = np.ones(3)
            self.optimizer = gdgpu.Adam([{"params": self.w}], 0.5)
            self.run, self.itself = self.optimizer.bind([np.ones(3)]), self

        def __del__(self):
            self.run()
            self.optimizer.step([np.ones(3)])
            self.optimizer.lr = 0.25
            said.append((self.optimizer.state_dict()["steps"], self.optimizer.current()[0]["lr"]))

    trainer = Trainer()
    del trainer
    gc.collect()
    assert said == [(2, 0.25)]


def test_calls_at_the_end_of_the_process(python):
    """No thread starts then, and nobody waits for one."""
    script = (
        "import builtins, numpy as np, gdgpu\n"
        "from gdgpu.kernels.backend import threads\n"
        "threads.set_num_threads({count})\n"
        "class Last:\n"
        "    def __init__(self):\n"
        "        self.w = np.zeros(1_000_000, 'f4')\n"
        "        self.run = gdgpu.SGD(self.w, 1.0).bind(np.ones_like(self.w))\n"
        "        if {before}: self.run()\n"
        "    def __del__(self):\n"
        "        self.run()\n"
        "        print(self.w[0], self.w[-1], flush=True)\n"
        "builtins.last = Last()\n"
    )
    for count, before in ((1, True), (2, True), (2, False)):
        steps = -1.0 - before
        assert python(script.format(count=count, before=before)) == f"{steps} {steps}\n"


def test_threads_keep_nothing_of_what_they_did(use_threads):
    use_threads(2)
    G = np.ones((200, 1000), np.float32)
    for call in (lambda: gdgpu.sample_norms(G), lambda: gdgpu.reduce_samples(G), lambda: gdgpu.sample_statistics(G)):
        call()
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                call()
            assert gc.collect() == 0
        finally:
            gc.enable()


def test_a_reduction_inside_of_another(monkeypatch):
    """As where a signal handler calls between layout and launch: each has a workspace of its own."""
    G, other = np.ones((3, 50), np.float32), np.full((3, 50), 5, np.float32)
    prepare, inner = launch.Reduction.prepare, []

    def interrupted(workspace, job):
        launches = prepare(workspace, job)
        if not inner:
            inner.append(None)
            inner[0] = gdgpu.reduce_samples(other)
        return launches

    gdgpu.reduce_samples(G)
    monkeypatch.setattr(launch.Reduction, "prepare", interrupted)
    found = gdgpu.reduce_samples(G, out=np.zeros(50, np.float32))
    assert (found == 1).all() and (inner[0] == 5).all()


def test_what_is_packed_is_of_its_moment():
    w = np.ones(3)
    optimizer = gdgpu.Momentum(w, 0.5)
    tensors, _ = checkpoint.packed(optimizer)
    optimizer.step(np.ones(3))
    assert (tensors["params"] == 1).all() and (tensors["state/velocity"] == 0).all()
