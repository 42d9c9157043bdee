"""Models of published sizes with random weights, and what compiling them costs, beside a peer."""
