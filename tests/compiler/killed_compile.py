"""Compiles in forked children, for test_kill: `python -m tests.compiler.killed_compile MODEL OUT`.

Each line of standard input is how long one compile may live, in seconds; each line of standard output says how it
ended: "killed" or "done", and after how many seconds. One process imports torch for all of them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion  # noqa: F401

from compiler import build
from compiler.capture import capture  # noqa: F401
from compiler.export import graph_export  # noqa: F401
from tests.compiler.made import request


def main() -> None:
    model, out = sys.argv[1:]
    wanted = request(Path(out), model=model)
    for line in sys.stdin:
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            build.compile(wanted)
            os._exit(0)
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() - start > float(line):
                os.kill(child, signal.SIGKILL)
                ended = os.waitpid(child, 0)
                break
            time.sleep(0.01)
        status = ended[1]
        if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
            sys.exit("a compile failed")
        word = "killed" if os.WIFSIGNALED(status) else "done"
        print(f"{word} {time.monotonic() - start}", flush=True)


if __name__ == "__main__":
    main()
