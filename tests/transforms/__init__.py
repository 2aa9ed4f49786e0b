"""Transforms in environments."""
