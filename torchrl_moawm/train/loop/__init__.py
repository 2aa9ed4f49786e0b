"""The training loop, around TorchRL's Trainer."""
