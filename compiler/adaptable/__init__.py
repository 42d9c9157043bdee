"""LoRAs that are switched when an artifact runs: what a compile keeps for them, and how constants are made anew."""
