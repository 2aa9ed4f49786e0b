"""Environments by the configuration of their task."""
