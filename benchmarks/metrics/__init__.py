"""Figures, logs and pictures."""
