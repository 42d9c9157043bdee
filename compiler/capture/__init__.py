"""What a pipeline calls its components with, found by running the pipeline itself without weights."""
