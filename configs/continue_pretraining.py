"""Goes on training a Llama that exists, and prunes it on the way.

  python -m jax_sparse_pretrain.train --workdir=DIR \\
    --config=configs/continue_pretraining.py:MODEL \\
    --config.data.path=TOKENS

MODEL is a directory of Hugging Face with `model_type` llama and no biases, such
as `export` writes, or one from the hub:

  hf download HuggingFaceTB/SmolLM2-135M --local-dir=MODEL

Its sizes are read from there. TOKENS must be made with its tokenizer:

  python -m jax_sparse_pretrain.prepare INPUT... --out=TOKENS \\
    --tokenizer=MODEL/tokenizer.json

To train a pruned model on without losing its zeros, add
`--config.init_masks_from_zeros --config.pruning.sparsity=0`.

The peak rate, the warm-up and the times of pruning are guesses: try your own.
"""

from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults


def get_config(model: str = 'MODEL') -> ConfigDict:
  """What differs from the recipe in `jax_sparse_pretrain/config.py`."""
  config = ConfigDict(defaults())
  config.init_from = model
  if model != 'MODEL':
    from jax_sparse_pretrain.huggingface.model_directory import ModelDirectory

    config.model.update(ModelDirectory(model).sizes)
    config.model.compute_dtype = 'bfloat16'
    # Published contexts are longer than what trains fast.
    config.model.context_length = min(config.model.context_length, 2048)

  config.batch_size = 128
  config.accumulation_steps = 8
  config.duration.unit = 'tokens'
  config.duration.value = 2_000_000_000
  config.optimizer.peak_lr = 3e-4
  config.optimizer.warmup_fraction = 0.02

  config.pruning.sparsity = 0.5
  config.pruning.start = 0.0  # It has been dense for long enough.
  config.pruning.end = 0.5
  return config
