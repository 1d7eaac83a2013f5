"""Errors of models, E_n of the outputs z_n, with their derivatives by z, the residuals; written once for both devices.

`residuals(z, t, n, delta, outputs)` turns the outputs values at address z into residuals and returns their error; t is
the address of all targets: outputs numbers a sample, or, for softmax, its class as int64; delta is Huber's. exp and
log1p agree between devices to rounding, not to the bit.
"""

from ..codegen.module import fill

ROW = """
@device
def residuals(z, t, n, delta, outputs):
    error = zero
    $lines
    return error
""".lstrip()

EACH = """
for k in range(outputs):
    y = load_sum(z, k)
    target = load_sum(t, n * outputs + k)
    $lines
    store_sum(z, k, residual)
""".strip()

# What one output adds to the error, and its residual.
ELEMENTS = {
    "squared": """
difference = y - target
error += difference * difference
residual = difference + difference
""",
    # squared where |y - t| <= delta, else delta * (2 |y - t| - delta)
    "huber": """
difference = y - target
inner = minimum(maximum(difference, -delta), delta)
error += inner * (difference + difference - inner)
residual = inner + inner
""",
    "poisson": """
rate = math.exp(y)
error += rate - target * y
residual = rate - target
""",
    "logistic": """
e = math.exp(-abs(y))
error += maximum(y, zero) - target * y + math.log1p(e)
p = (one if y >= zero else e) / (one + e)
residual = p - target
""",
}

SOFTMAX = """
largest = load_sum(z, 0)
for k in range(1, outputs):
    largest = maximum(load_sum(z, k), largest)
total = zero
label = load_int64(t, n)
error = largest - load_sum(z, label)
for k in range(outputs):
    e = math.exp(load_sum(z, k) - largest)
    total += e
    store_sum(z, k, e)
for k in range(outputs):
    store_sum(z, k, load_sum(z, k) / total)
store_sum(z, label, load_sum(z, label) - one)
error += math.log(total)
""".strip()

NAMES = (*ELEMENTS, "softmax")


def text(loss: str) -> str:
    """The function `residuals` of a loss."""
    lines = SOFTMAX if loss == "softmax" else fill(EACH, lines=ELEMENTS[loss].strip()).rstrip()
    return fill(ROW, lines=lines)
