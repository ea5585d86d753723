"""GeoVQ: post-hoc vector quantization of autoencoder latents with the decoder's own geometry."""

__version__ = "0.1.0"
