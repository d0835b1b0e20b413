"""Training: configuration, objective, augmentation, checkpoints and the Accelerate loop."""
