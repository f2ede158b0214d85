"""From a request to sounds in a folder: which latents, decoded, chosen, written, made again."""
