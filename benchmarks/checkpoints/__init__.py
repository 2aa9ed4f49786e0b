"""What is kept of a run, so that it goes on bitwise."""
