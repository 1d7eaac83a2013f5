"""Cases of reductions: a matrix (samples, elements) added up over its rows, alone and with a step in the same pass."""

from functools import partial

from peers import compiled_sum, reader

import gdgpu


def reduce(arrays, shape):
    """The sum over the rows of a matrix: reads it, writes one row. All contenders read the same matrix."""
    G, out = arrays.normal(*shape), arrays.xp.empty(shape[1], arrays.sums)
    call = partial(G.sum, axis=0, dtype=arrays.sums, out=out)

    def torch(sum_rows=lambda tensor, dtype: tensor.sum(0, dtype=dtype)):
        return partial(sum_rows, arrays.tensor(G), arrays.tensor(out).dtype)

    return G.nbytes + out.nbytes, {
        "gdgpu": lambda: partial(gdgpu.reduce_samples, G, reduction="sum", out=out),
        "torch": torch,
        "torch_compile": lambda: torch(compiled_sum()),
        "cupy": lambda: call,
        "numpy": lambda: call,
        "read": lambda: reader(G),
    }


def fused(arrays, shape, optimizer):
    """The mean over the samples and a step with it, in one pass; peers take the mean, then the step."""
    G, columns = arrays.normal(*shape), shape[1]
    nbytes = G.nbytes + columns * 2 * (arrays.itemsize + optimizer.states * arrays.sums_itemsize)

    def torch():
        step, (w,) = optimizer.torch_step(*arrays.tensors([columns]))
        tensor = arrays.tensor(G)

        def run():
            w.grad = tensor.mean(0)
            step()

        return run

    def torch_compile():
        params, _ = arrays.tensors([columns])
        return optimizer.compiled_step(params, arrays.tensor(G), samples=True)

    def cupy():
        params, gradients = arrays.parameters([columns])
        step = optimizer.cupy_step(arrays, params, gradients)

        def run():
            G.mean(axis=0, out=gradients[0])
            step()

        return run

    return nbytes, {
        "gdgpu": lambda: optimizer.bound(arrays.normal(columns), G, samples=True),
        "torch": torch,
        "torch_compile": torch_compile,
        "cupy": cupy,
        "read": lambda: reader(G),
    }
