"""Densities over the latent and paths through it."""
