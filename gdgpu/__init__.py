"""Gradient descent at the speed of memory, with the same bits on CPU and GPU."""

from importlib import import_module

__version__ = "0.1.0"

# Each public name and the module it lives in. They load on first use (PEP 562), so that
# `import gdgpu` costs nothing and numba, cupy and matplotlib are imported only when needed.
_HOME = {
    "minibatches": "sampling",
    "reduce_samples": "reduction",
    "Accumulator": "reduction",
    "sample_norms": "clipping",
    "clip_weights": "clipping",
    "sample_statistics": "statistics",
    "median_samples": "statistics",
    "trimmed_mean_samples": "statistics",
    "SGD": "optimizers",
    "Momentum": "optimizers",
    "Adagrad": "adaptive",
    "Adadelta": "adaptive",
    "RMSprop": "adaptive",
    "Adam": "adaptive",
    "AdamW": "adaptive",
    "Adamax": "adaptive",
    "NAdam": "adaptive",
    "RAdam": "adaptive",
    "Lion": "adaptive",
    "LARS": "layerwise",
    "LAMB": "layerwise",
    "rule": "own",
    "flatten": "flat",
    "fma": "kernels.scalars",
    "sqrt": "kernels.scalars",
    "maximum": "kernels.scalars",
    "minimum": "kernels.scalars",
    "sign": "kernels.scalars",
    "fit": "training",
    "History": "training",
    "Diverged": "training",
}
_MODULES = ("models", "schedules", "checkpoint", "datasets", "devices", "kernels")

__all__ = [*_HOME, "models", "schedules"]


def __getattr__(name):
    if name in _MODULES:
        return import_module(f"gdgpu.{name}")
    if name in _HOME:
        value = getattr(import_module(f"gdgpu.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'gdgpu' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_HOME, *_MODULES})


def _register_with_numba():
    """Numba calls this before it compiles anything, so that `gdgpu.fma` and the others work in a user's njit."""
    for name, home in _HOME.items():
        if home == "kernels.scalars":
            __getattr__(name)
