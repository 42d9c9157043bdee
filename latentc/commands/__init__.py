"""One file for one command; each imports what it needs when it runs."""
