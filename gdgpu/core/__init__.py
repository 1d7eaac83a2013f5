"""What all rooms share: arrays as users pass them, structures of arrays, checks, files."""
