"""Figures of teams and models, and how they are logged, drawn and written down."""
