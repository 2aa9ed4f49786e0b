"""Grids of runs, their statistics, and their pictures."""
