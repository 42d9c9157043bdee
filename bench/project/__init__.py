"""The project measuring itself: what stands behind the figures in the docs. It is not in the wheel."""
