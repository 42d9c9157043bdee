"""`nox`: this project's golden graphs under the versions of diffusers that it supports.

    nox                        # every version
    nox -s "graphs(diffusers='0.41.0')" -- pixart-sigma sana

What differs from the golden files is printed, and explained in docs/graph.md; a session fails only where a model
cannot be exported any more.
"""

import nox

DIFFUSERS = ("0.41.0", "0.42.1")


@nox.session
@nox.parametrize("diffusers", DIFFUSERS)
def graphs(session: nox.Session, diffusers: str) -> None:
    """Compares the golden graphs with those that this version makes."""
    session.install("-c", "constraints.txt", "-e", ".")
    session.install("--no-deps", f"diffusers=={diffusers}")
    session.run("python", "-m", "bench.full_size.golden", *session.posargs, success_codes=[0, 1])
    session.run("python", "-m", "latentc", "graph", "--help", silent=True)
