"""What tests ask of processes that they did not start themselves; several of their own that begin alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

FORKING = """
import json, os, sys, traceback
with open(sys.argv[1]) as file:
    beginning, scripts = json.load(file)
scope, said = {"__name__": "__main__"}, {}
exec(beginning, scope)
for name, script in scripts.items():
    reads, writes = os.pipe()
    if (child := os.fork()) == 0:
        os.dup2(writes, 1)
        status = 0
        try:
            exec(script, scope)
        except SystemExit as leaving:
            status = leaving.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    os.close(writes)
    with open(reads) as pipe:
        out = pipe.read()
    said[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), out
print(json.dumps(said))
"""


def forked(beginning, scripts, folder, **environment):
    """{name: (exit status, standard output)} of the scripts, each in a process of its own in which this has run before.

    That is run once: most of what a process takes is its imports. An environment of None is unset.
    """
    (folder / "scripts.json").write_text(json.dumps([beginning, scripts]))
    env = {k: v for k, v in (os.environ | environment).items() if v is not None}
    command = [sys.executable, "-c", FORKING, str(folder / "scripts.json")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    sys.stderr.write(done.stderr)  # which pytest shows where a test fails
    assert done.returncode == 0
    return {name: tuple(said) for name, said in json.loads(done.stdout).items()}


def is_gone(pid):
    """True for a process that has ended, also if nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
