"""Metric tensors, neighbours, graphs and shortest paths on the tokens of any decoder's latent space."""
