"""The model: a decoder, and parameter and FLOP counts from its shapes.

`decoder` is Flax and may be changed freely as long as `counts` follows, which
tests compare with the real parameters. The names of parameters are a promise:
masks, histories and checkpoints use them. Nothing is imported here, since the
analysis reads `counts` without JAX.
"""
