"""What runs say, read from their files alone. Never imports jax."""
