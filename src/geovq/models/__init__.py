"""Networks and losses only: no training loop, no files."""
