"""The order of things: stages, artifacts under keys, training that resumes."""
