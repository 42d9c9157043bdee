"""One function for each command, with its options as keywords; `latentc` itself exports them."""
