"""Per-sample gradients: sums, clipping, statistics."""
