"""Norms of samples, clip and reduce, moments, the noise scale, medians and trimmed means."""
