"""Sessions: one opened graph of one vendor, arrays in, arrays out; one file for each vendor."""
