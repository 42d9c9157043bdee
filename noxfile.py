"""`nox`: this project's golden graphs under the versions of diffusers that it supports.

    nox                                                        # every version, every golden file
    nox -s "graphs(diffusers='0.41.0')" -- sd15                # one of each

A session prints what differs from the golden files, and fails where anything does.
"""

import nox

DIFFUSERS = ("0.41.0", "0.42.1")


@nox.session
@nox.parametrize("diffusers", DIFFUSERS)
def graphs(session: nox.Session, diffusers: str) -> None:
    """Compares the golden graphs with those that this version makes."""
    session.install("-c", "constraints.txt", "-e", ".")
    session.install("--no-deps", f"diffusers=={diffusers}")
    session.run("python", "-m", "bench.full_size.golden", *session.posargs)
