"""Data written for the project, its generator, and the demo."""
