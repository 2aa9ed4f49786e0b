"""Checks whose message names the argument and the shapes; the value checks can be disabled."""
