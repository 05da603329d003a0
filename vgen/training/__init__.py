"""Training: the one LightningModule, its callbacks, strategies and checkpoints."""
