"""The decoder, and parameter and FLOP counts from its shapes.

No imports here: `counts` must work without JAX.
"""
