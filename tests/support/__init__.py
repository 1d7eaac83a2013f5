"""What several test files share: references, cases, and the scripts of other processes."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the repository
