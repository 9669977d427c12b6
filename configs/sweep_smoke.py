r"""A small sweep: two sparsities by three schedules, with a dense run.

  python -m jax_sparse_pretrain.sweep --config=configs/sweep_smoke.py \
    --workdir=DIR

The smoke model, shorter, on a warm-up-stable-decay schedule whose warm-up is
in steps: runs that differ in length or in pruning have their first steps in
common, and the sweep makes those once. `--plan` says what that saves.
Cost: about two minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults


def get_config() -> ConfigDict:
  """What the runs have in common."""
  config = ConfigDict(defaults())
  config.batch_size = 16  # rows; x 64 = 1,024 tokens a step

  config.model.vocab_size = 256  # bytes
  config.model.n_layers = 2
  config.model.d_model = 64
  config.model.n_heads = 2
  config.model.d_ff = 256
  config.model.context_length = 64
  config.model.compute_dtype = 'float32'  # CPUs have no fast bfloat16
  config.model.scan_layers = False  # on a CPU the loop's body is slower

  config.data.source = 'stdlib'
  config.data.path = ''
  config.data.tokenizer = 'bytes'

  config.duration.value = 120  # dense steps
  config.optimizer.peak_lr = 3e-3
  config.optimizer.schedule = 'warmup_stable_decay'
  config.optimizer.warmup_steps = 10  # not a fraction: see above

  config.pruning.every = 5
  config.evaluation.every = 0  # at the end
  config.evaluation.rows = 128
  config.checkpoint.every = 0  # at the end
  config.logging.every = 20
  return config


def get_runs():
  """(name, what it changes)."""
  yield 'dense', {'pruning.sparsity': 0.0}
  for sparsity in (0.5, 0.8):
    for start, end in ((0.25, 0.5), (0.25, 0.75), (0.5, 0.75)):
      yield (
        f's{sparsity:.0%}_{start:.0%}_{end:.0%}'.replace('%', ''),
        {
          'pruning.sparsity': sparsity,
          'pruning.start': start,
          'pruning.end': end,
        },
      )
