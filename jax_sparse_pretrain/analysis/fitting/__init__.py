"""The law of the loss: fit, intervals, simulation."""
