"""Models that have left training: load, evaluate, generate, export.

`language_model` opens a workdir or a directory of Hugging Face. `generation`
writes text with an engine: JAX, or `sparse_engine` on a CPU. Nothing here
writes to a workdir.
"""
