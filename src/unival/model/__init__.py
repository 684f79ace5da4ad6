"""The model: UnIVAL as a `transformers` citizen, its encoders, processor and checkpoint conversion."""
