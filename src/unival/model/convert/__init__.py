"""From the checkpoints of the original, of BART and of public encoders to a model folder, and back."""
