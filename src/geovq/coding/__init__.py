"""Codes as bits of a file: exact probabilities, an entropy coder, and the format that holds them."""
