"""A Llama as Hugging Face lays it out: config, tensors, tokenizer, directory.

`llama` says how its tensors are ours, `model_directory` reads them, and
`tokenizer_files` makes a `tokenizer.json` of any tokenizer of a training.
`sparse_file` holds the same tensors as bits and values. No JAX here.
"""
