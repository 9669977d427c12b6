"""A sparse pre-training run for a laptop CPU, on text every machine has.

  python -m jax_sparse_pretrain.train --config=configs/smoke.py --workdir=DIR

The Python standard library's own sources, as bytes, through a small decoder,
pruned to 80 % over the middle half of compute: 25/50/25, global, geometric.
Cost: under three minutes on two CPU cores.
Expected: evaluation loss more than 0.7 nats below the unigram entropy.
"""

from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults


def get_config() -> ConfigDict:
  """The paper's recipe, `jax_sparse_pretrain/config.py`, made small."""
  config = ConfigDict(defaults())
  config.batch_size = 32  # rows; x 128 = 4,096 tokens a step

  config.model.vocab_size = 256  # bytes
  config.model.n_layers = 2
  config.model.d_model = 128
  config.model.n_heads = 4
  config.model.d_ff = 512
  config.model.context_length = 128
  config.model.compute_dtype = 'float32'  # CPUs have no fast bfloat16
  config.model.scan_layers = False  # on a CPU the loop's body is slower

  config.data.source = 'stdlib'
  config.data.path = ''
  config.data.tokenizer = 'bytes'

  config.duration.value = 130  # dense steps
  config.optimizer.peak_lr = 3e-3
  config.optimizer.warmup_fraction = 0.05  # 1 % would be 3 steps

  config.pruning.sparsity = 0.8
  config.pruning.every = 5  # steps

  config.evaluation.every = 100  # steps
  config.evaluation.rows = 256  # 32,768 validation bytes
  config.checkpoint.every = 100  # steps
  config.logging.every = 10  # steps
  return config
