"""What the check on a GPU is made of: processes, stages, variants, hazards, the report."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the repository
