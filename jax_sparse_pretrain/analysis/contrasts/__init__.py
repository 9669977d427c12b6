"""What differs between runs, against what seeds alone make differ."""
