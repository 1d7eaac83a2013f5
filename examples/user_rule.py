"""An optimizer of your own: momentum that moves no weight uphill, on a valley where plain momentum overshoots.

Run: python examples/user_rule.py
"""

import numpy as np

import gdgpu


@gdgpu.rule(state=("velocity",), momentum=0.9)
def cautious(w, g, velocity, lr, momentum):
    """Momentum that waits where its velocity points uphill, after Liang et al. 2024, arXiv:2411.16085."""
    velocity = gdgpu.fma(momentum, velocity, -(lr * g))
    downhill = velocity * g < 0
    return (w + velocity if downhill else w), velocity


def steps_to_the_bottom(optimizer, curvature):
    """Steps until sum(curvature * w^2) / 2 is a millionth of what it was, from w = 1."""
    w = np.ones_like(curvature)
    run = optimizer(w, lr=0.5 / curvature.max(), momentum=0.97)
    start, steps = curvature.sum(), 0
    while (curvature * w * w).sum() > 1e-6 * start:
        run.step(curvature * w)
        steps += 1
    return steps


def main():
    curvature = np.geomspace(1, 100, 1000, dtype=np.float32)
    counts = {optimizer.__name__: steps_to_the_bottom(optimizer, curvature) for optimizer in (gdgpu.Momentum, cautious)}
    for name, steps in counts.items():
        print(f"{name:10} {steps} steps")
    return counts


if __name__ == "__main__":
    main()
