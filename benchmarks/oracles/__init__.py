"""Simulators in the place of a world model: what a perfect one would be worth."""
