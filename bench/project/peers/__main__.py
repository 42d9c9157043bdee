from __future__ import annotations

import argparse
import sys

from artifacts.errors import LatentcError
from bench.project import peers

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.project.peers", description=peers.__doc__)
    parser.add_argument("name", choices=sorted(peers.PEERS))
    try:
        print(peers.python(parser.parse_args().name, tell=lambda line: print(line, file=sys.stderr)))
    except LatentcError as error:
        sys.exit(f"Error: {error}")
