r"""A small sweep, from which a law can be fitted: dense sizes, and sparse runs.

  python -m jax_sparse_pretrain.sweep --config=configs/sweep_smoke.py \
    --workdir=DIR
  python -m jax_sparse_pretrain.analysis fit DIR/runs.csv
  python -m jax_sparse_pretrain.analysis report DIR/runs.csv --out report.html

On a warm-up-stable-decay schedule whose warm-up is in steps, runs that differ
in length or in pruning have their first steps in common, and the sweep makes
those once. `--plan` says what that saves.
Cost: two minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults

WIDTHS = (16, 32, 48)
STEPS = (200, 400, 800)  # x 512 tokens
SPARSITIES = (0.5, 0.8)


def get_config() -> ConfigDict:
  """What the runs have in common."""
  config = ConfigDict(defaults())
  config.batch_size = 16  # rows; x 32 = 512 tokens a step

  config.model.vocab_size = 256  # bytes
  config.model.n_layers = 1
  config.model.n_heads = 2
  config.model.context_length = 32
  config.model.compute_dtype = 'float32'  # CPUs have no fast bfloat16
  config.model.scan_layers = False  # on a CPU the loop's body is slower

  config.data.source = 'stdlib'
  config.data.path = ''
  config.data.tokenizer = 'bytes'

  config.duration.unit = 'steps'
  config.optimizer.schedule = 'warmup_stable_decay'
  config.optimizer.warmup_steps = 20  # not a fraction: see above

  config.pruning.every = 5
  config.evaluation.every = 0  # at the end
  config.evaluation.rows = 1024
  config.checkpoint.every = 0  # at the end
  config.logging.every = 64
  config.logging.tensorboard = False
  return config


def get_runs():
  """(name, what it changes)."""
  for width in WIDTHS:
    for steps in STEPS:
      yield _run(width, steps, 0.0)
  for width in WIDTHS[1:]:
    for steps in STEPS[1:]:
      for sparsity in SPARSITIES:
        yield _run(width, steps, sparsity)


def _run(width: int, steps: int, sparsity: float):
  return (
    f'd{width}_{steps}' + (f'_s{sparsity:g}' if sparsity else ''),
    {
      'model.d_model': width,
      'model.d_ff': 4 * width,
      'optimizer.peak_lr': 0.3 / width,
      'duration.value': steps,
      'pruning.sparsity': sparsity,
    },
  )
