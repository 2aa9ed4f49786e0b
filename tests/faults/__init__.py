"""The contract, the gradients, and the defects seen elsewhere."""
