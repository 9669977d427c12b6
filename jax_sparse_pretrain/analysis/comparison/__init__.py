"""Laws side by side, on the same runs."""
