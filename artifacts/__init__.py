"""What lies on disk: the manifest, hashes, atomic publishing and verification. Imports no ML library."""
