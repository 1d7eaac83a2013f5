"""Sums over samples in one fixed tree, reduce and update in one pass, norms of whole tensors."""
