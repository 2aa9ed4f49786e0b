"""Tasks: environments, partners, and what they are made of."""
