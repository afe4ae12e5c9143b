"""One training run: the model and its loop."""
