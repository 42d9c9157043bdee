"""Graph regression: a graph as a sorted text, and what differs between two of them."""
