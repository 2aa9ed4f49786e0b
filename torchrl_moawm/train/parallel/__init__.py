"""Collectors and learners in several processes."""
