"""The algorithms of the benchmark, all in one form."""
