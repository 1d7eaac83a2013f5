"""Cases that run whole optimizers: steps of both kinds, what they store, what surrounds a step."""

import itertools

import numpy as np

import gdgpu
from gdgpu.kernels.catalogue import flags_of
from gdgpu.kernels.rules.table import RULES
from support.bits.arrays import to_device, unaligned
from support.references import DTYPES, samples


def run_optimizer(name, **hyper):
    """Steps of both kinds over tensors of all dtypes."""
    shapes = {"a": (40, 3), "b": (), "c": (0,), "d": (5,), "e": (33,)}
    dtypes = dict(zip(shapes, (*DTYPES, "float32"), strict=True))
    params = {k: to_device(samples(shapes[k] or (1,), d).reshape(shapes[k])) for k, d in dtypes.items()}
    optimizer = getattr(gdgpu, name)(params, **hyper)
    for step in range(3):
        G = {k: samples((34, *shape), dtypes[k], step) for k, shape in shapes.items()}
        optimizer.step({k: to_device(np.array(g[0])) for k, g in G.items()})
        G = {k: to_device(g) for k, g in G.items()}
        optimizer.step_samples(G, samples((34,), "float64", step), "sum" if step else "mean")
    states = [array for tensors in optimizer.state_dict()["state"].values() for array in tensors.values()]
    return [*params.values(), *states]


def run_bound(name, options, **hyper):
    """Bound steps of both kinds over two groups, one with options of its own, and a new lr between them."""
    shapes = [(40, 3), (5,), (33,)]
    params = [to_device(samples(shape, "float32", k)) for k, shape in enumerate(shapes)]
    groups = [{"params": params[:2], "lr": 0.25} | options, {"params": params[2:]}]
    optimizer = getattr(gdgpu, name)(groups, **hyper)
    G = [to_device(samples((70, *shape), "float32", 9)) for shape in shapes]
    grads = [to_device(samples(shape, "float32", 8)) for shape in shapes]
    step, step_samples = (bind([g[:2], g[2:]]) for bind, g in ((optimizer.bind, grads), (optimizer.bind_samples, G)))
    for lr in (0.5, 0.125):
        step()
        optimizer.lr = lr
        step_samples()
    return params


def run_steps(name, dtype, asked, **hyper):
    """A step, or two with keywords, and one of samples; the second tensor is unaligned."""
    # in the simulator a block takes 512 codes of 8 bits at once, or 256 one by one
    shapes = *(((530,), (20, 14)) if hyper.get("state_dtype") == "uint8" else ((300,), (5, 7))), (0,), (1,)
    params = [samples((1, *shape), dtype, k)[0] for k, shape in enumerate(shapes)]
    params[1] = unaligned(params[1])
    params = list(map(to_device, params))
    optimizer = getattr(gdgpu, name)(params, **{"lr": 0.1} | hyper)
    for step in range(2 if asked else 1):
        grads = [samples((1, *shape), dtype, 8 + step)[0] for shape in shapes]
        for g in (g.reshape(-1) for g in grads if g.size > 256):
            g[255] = 2 * abs(g).max()  # among the 256 of a scale of codes, the last thread has the largest
        grads = list(map(to_device, grads))
        optimizer.step(grads, **asked)
    optimizer.step_samples([to_device(samples((3, *shape), dtype, 7)) for shape in shapes])
    states = [array for tensors in optimizer.state_dict()["state"].values() for array in tensors]
    return [*params, *grads, *states, np.array(optimizer.steps)]


def run_large(name):
    """One step, with norms of tensors and their joint norm over trees of two levels."""
    params, grads = ([to_device(samples((n,), "float32", seed)) for n in (33_000, 3)] for seed in (0, 1))
    getattr(gdgpu, name)(params, lr=0.1).step(grads, clip_norm=1.0)
    return params


AT_RANDOM = {"rounding": "stochastic", "seed": 3}
COPIES = {  # what is kept, and how: dtype of the parameters, arguments of the optimizer
    "master": ("float16", {"master": True}),
    "ema": ("float32", {"ema": 0.9}),
    "master, ema": ("bfloat16", {"master": True, "ema": 0.9}),
    "float16 at random": ("float16", AT_RANDOM),
    "bfloat16 at random": ("bfloat16", AT_RANDOM),
    "state in bfloat16": ("float32", {"state_dtype": "bfloat16"}),
    "state in bfloat16 at random": ("float32", {"state_dtype": "bfloat16"} | AT_RANDOM),
    "state in 8 bits": ("float32", {"state_dtype": "uint8"}),
    "state in 8 bits at random": ("bfloat16", {"state_dtype": "uint8"} | AT_RANDOM),
}
WITH_ALL = ("master, ema", "state in bfloat16 at random", "state in 8 bits")
OPTIMIZERS = {  # the arguments of each
    "Momentum": {},
    "Adam": {"weight_decay": 0.01},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adamax": {},
    "LARS": {"weight_decay": 0.01},
    "LAMB": {"weight_decay": 0.01},
}
STEP_CONTEXT = {
    "scaled": {"grad_scale": 8.0},
    "clipped by value": {"clip_value": 0.5},
    "clipped by norm": {"clip_norm": 1.0},
    "not skipped": {"found_inf": False},
    "skipped": {"found_inf": True},
    "zeroed": {"zero_grads": True},
}
ALL = {"grad_scale": 4.0, "clip_value": 0.3, "clip_norm": 0.1, "found_inf": False, "zero_grads": True}


def cases():
    yield "optimizer/SGD", run_optimizer, ("SGD",), {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01}
    yield "optimizer/Adam", run_optimizer, ("Adam",), {"lr": 0.1, "weight_decay": 0.01, "maximize": True}
    yield "optimizer/Adam, lr a function", run_optimizer, ("Adam",), {"lr": lambda t: 0.1 / (t + 1)}
    for name, options in (("Momentum", {"maximize": True}), ("Adam", {"betas": (0.5, 0.75)})):
        yield f"optimizer/bound {name}", run_bound, (name, options), {"lr": 0.1}
    yield "optimizer/Momentum", run_optimizer, ("Momentum",), {"lr": lambda t: 0.1 / (t + 1), "nesterov": True}
    for rule in RULES.values():
        if rule.norm:
            yield from _norms(rule)
    yield "norms/more chunks than a node has", run_large, ("LARS",)
    for label, (dtype, common) in COPIES.items():
        for name in OPTIMIZERS if label in WITH_ALL else ("Momentum", "Adam"):
            if (name, common.get("state_dtype")) != ("LAMB", "uint8"):
                yield f"kept/{name}/{label}", run_steps, (name, dtype, {}), OPTIMIZERS[name] | common
    for context, asked in STEP_CONTEXT.items():
        yield f"grad_scaling/Momentum/{context}", run_steps, ("Momentum", "float32", asked)
    for name, asked in itertools.product(("Adam", "LARS", "LAMB"), (ALL, ALL | {"found_inf": True})):
        yield (
            f"grad_scaling/{name}/all{', skipped' * asked['found_inf']}",
            run_steps,
            (name, "float32", asked),
            OPTIMIZERS[name],
        )
    yield "grad_scaling/Momentum/all in float64", run_steps, ("Momentum", "float64", ALL)
    everything = COPIES["state in 8 bits at random"][1] | COPIES["master, ema"][1]
    for name in ("Momentum", "Adam"):
        yield (
            f"grad_scaling/{name}/all, and all kept",
            run_steps,
            (name, "bfloat16", ALL),
            OPTIMIZERS[name] | everything,
        )


def _norms(rule):
    """Rules with norms, which only optimizers run: all flags, and other dtypes."""
    name = next(name for name in gdgpu.__all__ if name.lower() == rule.name)
    for flags in map(dict, flags_of(rule)):
        yield (
            "/".join(["norms", rule.name, *(f for f, on in flags.items() if on)]),
            run_steps,
            (name, "float32", {}),
            flags,
        )
    for dtype in ("float16", "float64"):
        yield f"norms/{rule.name}/{dtype}", run_steps, (name, dtype, {}), OPTIMIZERS[name]
