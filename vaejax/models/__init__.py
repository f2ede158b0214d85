"""Single-example encoders and decoders (Flax linen)."""
