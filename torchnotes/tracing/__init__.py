"""What can be known of a model before it runs: by torch.fx, by its source, and by its settings."""
