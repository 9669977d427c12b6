"""Models of finished runs, outside of training."""
