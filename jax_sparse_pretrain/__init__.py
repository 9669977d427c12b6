"""Sparse pre-training of language models in JAX.

No imports here, so that `jax_sparse_pretrain.analysis` works without JAX.
"""
