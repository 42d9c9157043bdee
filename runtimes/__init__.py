"""An artifact becomes images: one session for each vendor, plugged into diffusers' own pipelines."""
