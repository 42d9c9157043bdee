"""One graph from a captured method to a finished part of an artifact."""
