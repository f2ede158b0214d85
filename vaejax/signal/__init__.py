"""Digital signal processing in JAX: pure functions, one clip in, one clip out, time first."""
