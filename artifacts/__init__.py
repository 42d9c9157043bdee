"""What lies on disk: the manifest, hashes, atomic publishing and verification; and what all packages share: workers,
memory, the cache. Imports no ML library."""
