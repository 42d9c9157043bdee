"""`nox`: this project's golden graphs under several versions of torch and diffusers.

    nox                                                                     # every version, every golden file
    nox -s "graphs(torch='2.14.1', diffusers='0.42.1')" -- sd15             # one of each

A session prints what differs from the golden files, and fails where anything does. On Linux, torch from PyPI brings
gigabytes of CUDA libraries along.
"""

import nox

TORCH = ("2.13.0", "2.14.1")
# The first is older than what this project asks for: its AuraFlow is the example of docs/graph.md.
DIFFUSERS = ("0.37.0", "0.41.0", "0.42.1")


@nox.session
@nox.parametrize("diffusers", DIFFUSERS)
@nox.parametrize("torch", TORCH)
def graphs(session: nox.Session, torch: str, diffusers: str) -> None:
    """Compares the golden graphs with those that these versions make."""
    session.install("-c", "constraints.txt", "-e", ".")
    # Versions that this project does not ask for are put over those that it does.
    session.install(f"torch=={torch}")
    session.install(f"diffusers=={diffusers}")
    session.run("python", "-m", "bench.project.full_size.golden", *session.posargs)
