"""vaejax: a folder of sounds in, a variational autoencoder trained in JAX, new sounds out."""
