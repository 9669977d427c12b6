"""State, optimizer, step, loop, hooks, checkpoints."""
