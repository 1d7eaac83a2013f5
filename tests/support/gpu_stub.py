"""Stands for the scripts of the GPU check: python gpu_stub.py SCRIPT ARGUMENT …

GDGPU_STUB names a JSON file of what it is to do for a name: "hang", "die", "leave", "chatter", or an object that is
said; nothing: say what a good run says. "pause": seconds between names.
"""

import json
import os
import signal
import sys
import time

GOOD = {
    "rows.py": lambda name: {
        "dtype": DTYPE[0],
        "median_ms": 0.5,
        "share_of_copy": 0.99,
        "host_us": 5.5,
        "copy_gbs": 3000.0,
        "peers": {peer: 4.0 for peer in DTYPE[1].split(",")},
    },
    "bits.py": lambda name: {"different": None},
    "gpu_sweep.py": lambda name: {"us": 9.0 - len(name) % 5, "share": 0.5, "bits": "0"},
    "smoke.py": lambda name: {"said": MACHINE if name == "machine" else None, "seconds": 0.1},
}
MACHINE = {"device": "Some GPU 9000", "properties": {"compute_capability": "9.0"}, "versions": {"python": "3.12"}}
ARGUMENTS = {"rows.py": 2, "bits.py": 1, "smoke.py": 0, "gpu_sweep.py": 1}  # before the names
DTYPE = sys.argv[2:4]


def say(line):
    print(line, flush=True)


def do(asked, script, name):
    if asked == "hang":
        with open(f"{os.environ['GDGPU_STUB']}.pid", "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    if asked == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if asked == "leave":
        sys.exit(0)
    if asked == "chatter":
        say('{"not": JSON')
        say("a warning")
        asked = None
    found = asked or GOOD[script](name)
    say(json.dumps({"case": name} | found))
    if found.get("error"):
        sys.exit(1)


def main():
    script, arguments = os.path.basename(sys.argv[1]), sys.argv[2:]
    with open(os.environ["GDGPU_STUB"]) as file:
        asked = json.load(file)
    if script in asked:  # lines, and how it ends
        for line in asked[script][:-1]:
            say(line)
        do(asked[script][-1], script, "") if isinstance(asked[script][-1], str) else sys.exit(asked[script][-1])
        return
    if script == "gpu_prepare.py":
        say(json.dumps({"kernels": 3, "missing": asked.get("missing", []), "whole": asked.get("whole", True)}))
        return
    if asked.get("compiles") == script:
        open(f"{os.environ['GDGPU_CACHE_DIR']}/{os.environ['GDGPU_FINGERPRINT']}.sm_90.cubin", "w").close()
    for name in arguments[ARGUMENTS[script] :]:
        time.sleep(asked.get("pause", 0))
        do(asked.get(name), script, name)


if __name__ == "__main__":
    main()
