"""Algorithms, all in one form."""
