"""`python -m latentc`: the same as the `latentc` command."""

from latentc.cli import main

if __name__ == "__main__":
    main()
