"""Tests: the same tree as the library."""
