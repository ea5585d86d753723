"""A package beside GeoVQ: one class of each kind that its configuration can name."""
