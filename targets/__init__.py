"""A graph becomes one vendor's files: one file for each target, listed in `targets.target_table`."""

from artifacts import telemetry

telemetry.off()  # before any module of this package imports a vendor's
