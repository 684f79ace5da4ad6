"""What a training run will need of a machine."""
