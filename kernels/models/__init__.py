"""Linear models in one read of X, the layers of networks, losses."""
