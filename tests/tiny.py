"""A run small enough to train inside a test."""

from jax_sparse_pretrain import config as config_lib

VALUES = {
  'batch_size': 8,
  'model': {
    'vocab_size': 256,
    'n_layers': 2,
    'd_model': 32,
    'n_heads': 4,
    'd_ff': 64,
    'context_length': 32,
    'compute_dtype': 'float32',
  },
  'data': {'source': 'stdlib', 'path': '', 'tokenizer': 'bytes'},
  'duration': {'value': 30, 'unit': 'steps'},
  'optimizer': {'peak_lr': 3e-3},
  'pruning': {'sparsity': 0.8, 'every': 3},
  'evaluation': {'rows': 16, 'every': 0},
  'checkpoint': {'every': 0},
}


def tiny_config(**changes) -> config_lib.Config:
  """`VALUES` with sections changed: tiny_config(model={'n_layers': 1})."""
  values = dict(VALUES)
  for name, change in changes.items():
    is_section = isinstance(change, dict)
    values[name] = {**values.get(name, {}), **change} if is_section else change
  return config_lib.from_dict(values)
