"""Models that have left training: load, evaluate, generate, export.

`language_model` opens a workdir or a directory of Hugging Face; `llama` says
how the two name and lay out the same weights. Nothing here writes to a workdir.
"""
