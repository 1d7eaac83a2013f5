"""What both devices' kernels of linear.py have in common: the job that they read, and how samples are clipped."""

from ..backend import geometry

# Addresses, but for the numbers rows, n_features, outputs and segment. W: the weights, an output a row; on the CPU,
# rows of 0 up to padded(outputs). numbers: scale, max_norm and Huber's delta, in the dtype of the sums. errors: one a
# segment. work: on CUDA, work_size() sums a segment. What changes from batch to batch comes beside the job: X, its
# stride in elements, the targets, and the norms of the samples, or 0.
JOB = (
    *("rows", "n_features", "outputs", "W", "b", "numbers"),
    *("segment", "weights", "biases", "errors", "work"),
)
# Read where they are used, as attributes: profiling tries others.
ROWS = 8  # whose residuals are made together, while they are in the cache
BLOCK = min(128, geometry.BLOCK)  # threads of a block

CLIP = """
square = zero
for k in range(outputs):
    square = fma(load_sum(at, k), load_sum(at, k), square)
norm = sqrt(square) * sqrt(fma(scale * scale, load_sum(squares, r), one))
if norms != 0:
    store_sum(norms, n + r, norm)
if not norm <= max_norm:
    factor = max_norm / norm + (norm - norm)
""".strip()
