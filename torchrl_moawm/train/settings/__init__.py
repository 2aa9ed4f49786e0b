"""Settings: which there are, which a command line may change, what they mean together."""
