"""All that is public, as a user's script writes it: it runs, and `mypy --strict` finds nothing in it."""

import sys
from pathlib import Path

import numpy as np

import gdgpu
from gdgpu.typing import Array, Device

DEVICE: Device = "cpu"


def arrays() -> dict[str, Array]:
    return {"weight": np.ones((20, 3), np.float32), "bias": np.zeros(3, np.float32)}


@gdgpu.rule(state=("velocity",), momentum=0.9)
def heavy_ball(w: float, g: float, velocity: float, lr: float, momentum: float) -> tuple[float, float]:
    velocity = gdgpu.fma(momentum, velocity, -(lr * g))
    return w + velocity, velocity


def optimize(params: dict[str, Array], grads: dict[str, Array]) -> list[gdgpu.Optimizer]:
    half = gdgpu.schedules.cosine(0.01, steps=100, warmup=10, final=1e-4)
    made: list[gdgpu.Optimizer] = [
        gdgpu.SGD(params, lr=0.1, momentum=0.9, dampening=0, weight_decay=1e-4, nesterov=True, maximize=False),
        gdgpu.Momentum(params, lr=half, momentum=0.9, nesterov=True, weight_decay=1e-4, maximize=False),
        gdgpu.Adagrad(params, lr=0.01, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10),
        gdgpu.Adadelta(params, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0, maximize=False),
        gdgpu.RMSprop(params, lr=0.01, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=True),
        gdgpu.Adam(params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=True, ema=0.999),
        gdgpu.AdamW(params, lr=1e-3, state_dtype="uint8", rounding="stochastic", seed=1),
        gdgpu.Adamax(params, lr=2e-3, betas=(0.9, 0.999), eps=1e-8),
        gdgpu.NAdam(params, lr=2e-3, momentum_decay=4e-3, decoupled_weight_decay=True),
        gdgpu.RAdam(params, lr=1e-3, decoupled_weight_decay=True),
        gdgpu.Lion(params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.1),
        gdgpu.LARS(params, lr=0.1, momentum=0.9, trust_coefficient=1e-3, eps=0, nesterov=False),
        gdgpu.LAMB([{"params": params["weight"]}, {"params": [params["bias"]], "lr": 0.1}], lr=1e-3, eps=1e-6),
    ]
    for optimizer in made[:-1]:
        optimizer.step(grads, grad_scale=2.0, clip_value=1.0, clip_norm=1.0, zero_grads=False)
    run = made[1].bind(grads)
    run()
    made[-1].lr, made[-1].groups[1].lr = 0.5, 0.25
    sgd = gdgpu.SGD(params, lr=0.1)
    sgd.momentum, sgd.groups[0].momentum = 0.5, 0.25
    average: Array = made[5].ema["weight"]
    print(made[1].steps, made[0].current()["momentum"], average.shape, [o.name for o in made])
    return made


def train(folder: Path) -> gdgpu.History:
    data = gdgpu.datasets.digits()
    labels, names = data.classes()
    parts = gdgpu.datasets.split(data.X, labels, test_fraction=0.2, seed=0)
    model = gdgpu.models.SoftmaxRegression(parts.X.shape[1], len(names), device=DEVICE)
    optimizer = gdgpu.Momentum(model.params, lr=0.05, momentum=0.9)
    for x, t in gdgpu.minibatches(parts.X, parts.t, batch_size=256, epoch=0):
        optimizer.step_samples(model.per_sample_gradients(x, t), max_norm=10.0)
    history = gdgpu.fit(model, parts.X, parts.t, optimizer, epochs=2, validation=(parts.X_test, parts.t_test))
    gdgpu.checkpoint.save_optimizer(folder / "run.safetensors", optimizer, {"epochs": str(len(history.epochs))})
    metadata: dict[str, str] = gdgpu.checkpoint.load_optimizer(folder / "run.safetensors", optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    print(history.epochs[-1]["loss"] < history.epochs[0]["loss"], metadata["epochs"], model.metric_name)
    network = gdgpu.models.MLP((20, 8, 3), activation="tanh", loss="squared", seed=1, device=DEVICE, dtype="float64")
    loss, grads = network.gradient(np.ones((4, 20)), np.ones((4, 3)), max_norm=1.0, reduction="sum")
    print(float(loss) > 0, grads["weight0"].shape, gdgpu.devices.resolve(DEVICE).name)
    return history


def reduce() -> Array:
    G = {name: np.ones((8, *w.shape), np.float32) for name, w in arrays().items()}
    sums = gdgpu.Accumulator(arrays())
    sums.add(G, weights=np.ones(8), max_norm=1.0)
    mean, variance, scale = gdgpu.sample_statistics(G)
    factors: Array = gdgpu.clip_weights(gdgpu.sample_norms(G), max_norm=1.0)
    flat, views = gdgpu.flatten(arrays())
    medians = gdgpu.median_samples(list(G.values()))[0] + gdgpu.trimmed_mean_samples(G, fraction=0.1)["weight"]
    print(sums.count, sums.result("sum")["bias"].shape, mean["bias"].shape, variance["bias"].shape, scale.shape)
    print(factors.shape, flat.size, views["bias"].shape, medians.shape)
    return gdgpu.reduce_samples(G["weight"], weights=factors, reduction="mean")


if __name__ == "__main__":
    gdgpu.set_num_threads(gdgpu.num_threads())
    grads = {name: np.full_like(w, 0.5) for name, w in arrays().items()}
    optimize(arrays(), grads)
    heavy_ball(arrays(), lr=0.1, momentum=0.8).step(grads)
    print(reduce().shape, train(Path(sys.argv[1])).config["model"], gdgpu.sign(-2.0), gdgpu.__version__)
    try:
        raise gdgpu.Diverged(3, "loss is nan")
    except gdgpu.Diverged as error:
        print(error.step, error.reason)
