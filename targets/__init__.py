"""A graph becomes one vendor's files: one file for each target, listed in `targets.table`."""
