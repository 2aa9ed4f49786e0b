"""Checks whose message names the argument and the shapes; those of values can be switched off."""
