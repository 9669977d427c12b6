"""Step time of a sparse run, a dense run, and a step written by hand.

  python -m benchmarks.step [--rounds 40] [--config.model.d_model=256 ...]

All in one process, one step of each in turn, in an order drawn anew each
round. Ratios are medians over rounds of the ratio within a round, so that
what slows the machine for longer than a round cancels; +- is the distance
between the quartiles over the square root of the number of rounds. By hand
are the loss, the optimizer and the step; the model is the same.
"""

import argparse
import functools
import pathlib
import random
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jax_sparse_pretrain import command_line
from jax_sparse_pretrain.config import Config
from jax_sparse_pretrain.model.decoder import Decoder
from jax_sparse_pretrain.training import setup

SMOKE = str(pathlib.Path(__file__).parents[1] / 'configs' / 'smoke.py')
SIZES = {
  'smoke': [],
  'd_model 256': [
    '--config.model.d_model=256',
    '--config.model.d_ff=1024',
    '--config.model.n_heads=8',
    '--config.batch_size=16',
  ],
}


def our_step(config: Config):
  """A function that takes one step of the real training program."""
  experiment = setup.set_up(config, jax.devices()[:1])
  rows = experiment.to_devices(next(experiment.batches))
  experiment.batches.close()
  state = experiment.init()
  # Past the last update: the masks are those of the final sparsity.
  end = experiment.plan.schedule.end
  state, _ = experiment.programs.train_step(
    state, rows, experiment.controls(end)
  )
  controls = experiment.controls(end + 1)

  def step(prune=False):
    nonlocal state
    state, metrics = experiment.programs.train_step(
      state, rows, experiment.controls(end) if prune else controls
    )
    return metrics

  return step


def hand_written_step(config: Config):
  """The same model, loss and optimizer as one would write them for one run."""
  model = Decoder(config.model)
  rows = np.random.default_rng(0).integers(
    0,
    config.model.vocab_size,
    (config.batch_size, config.model.context_length + 1),
  )
  rows = jnp.asarray(rows, jnp.int32)
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, config.optimizer.peak_lr, 10, 10_000
  )
  tx = optax.chain(
    optax.clip_by_global_norm(config.optimizer.clip_norm),
    optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=0.1),
  )

  def loss_fn(params, rows):
    logits = model.apply({'params': params}, rows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, rows[:, 1:]
    ).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def train_step(params, opt_state, rows):
    loss, grads = jax.value_and_grad(loss_fn)(params, rows)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  params = nn.unbox(model.init(jax.random.key(0), rows[:1, :-1])['params'])
  opt_state = tx.init(params)

  def step():
    nonlocal params, opt_state
    params, opt_state, loss = train_step(params, opt_state, rows)
    return loss

  return step


def interleaved(
  steps: dict, rounds: int, clock=time.perf_counter
) -> dict[str, list[float]]:
  """Seconds of each step in each round, after two rounds of warm-up."""
  seconds = {name: [] for name in steps}
  for _ in range(rounds + 2):
    for name in random.sample(list(steps), len(steps)):
      start = clock()
      jax.block_until_ready(steps[name]())
      seconds[name].append(clock() - start)
  return {name: times[2:] for name, times in seconds.items()}


def ratio(over: list[float], under: list[float]) -> str:
  ratios = [a / b for a, b in zip(over, under, strict=True)]
  low, middle, high = statistics.quantiles(ratios, n=4)
  error = (high - low) / len(ratios) ** 0.5
  return f'{middle:.3f} +- {error:.3f}'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=40)
  args, overrides = parser.parse_known_args()
  print(f'{"size":12}  {"sparse":>9}  {"dense":>9}  {"by hand":>9}', end='')
  print(f'  {"update":>9}  {"sparse/dense":>15}  {"dense/by hand":>15}')
  for size, changes in SIZES.items():
    changes = [*changes, *overrides]
    sparse = command_line.load_config(SMOKE, changes)
    dense = command_line.load_config(
      SMOKE, [*changes, '--config.pruning.sparsity=0']
    )
    ours = our_step(sparse)
    steps = {
      'sparse': ours,
      'dense': our_step(dense),
      'by hand': hand_written_step(dense),
      'update': functools.partial(ours, prune=True),
    }
    seconds = interleaved(steps, args.rounds)
    times = [f'{1e3 * statistics.median(s):6.1f} ms' for s in seconds.values()]
    print(
      f'{size:12}',
      *times,
      f'{ratio(seconds["sparse"], seconds["dense"]):>15}',
      f'{ratio(seconds["dense"], seconds["by hand"]):>15}',
      sep='  ',
    )


if __name__ == '__main__':
  main()
