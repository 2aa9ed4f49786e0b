"""Properties that must hold for all inputs, by hypothesis."""
