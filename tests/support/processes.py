"""What tests ask of processes that they did not start themselves."""

from pathlib import Path


def is_gone(pid):
    """True for a process that has ended, also if nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
