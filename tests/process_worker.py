"""Goes on from a checkpoint and leaves, for each process, what it has.

`--out` gets the state as it was loaded, the rows of the next batches, and the
masks that the last update of the schedule would make of it.
"""

import argparse
import pathlib

import jax
import numpy as np

from jax_sparse_pretrain import command_line, distributed, sharding
from jax_sparse_pretrain.command_line import StopRequest
from jax_sparse_pretrain.runs import resume
from jax_sparse_pretrain.runs.checkpoint import Checkpoints
from jax_sparse_pretrain.training import setup

N_BATCHES = 3


def go_on(experiment, checkpoints):
  """Of any number of processes: (start, batches, masks of a pruned state)."""
  start = resume.start_or_resume(experiment, checkpoints)
  batches = [next(experiment.batches) for _ in range(N_BATCHES)]
  controls = experiment.controls(experiment.plan.schedule.end)
  copy = jax.tree.map(lambda x: x.copy(), start.state)  # It is donated.
  state, _ = experiment.programs.train_step(
    copy, experiment.to_devices(batches[0]), controls
  )
  masks = jax.jit(
    lambda x: x, out_shardings=sharding.replicated(experiment.mesh)
  )(state.masks)
  return start, batches, jax.device_get(masks)


def main():
  parser = argparse.ArgumentParser()
  for name in ('config', 'checkpoints', 'out', 'coordinator'):
    parser.add_argument(f'--{name}')
  parser.add_argument('--process', type=int)
  parser.add_argument('--processes', type=int)
  args = parser.parse_args()
  out = pathlib.Path(args.out)
  options = distributed.Options(args.coordinator, args.process, args.processes)
  with StopRequest() as stop:
    distributed.run_joined(options, stop, lambda stop: work(args, out))


def work(args, out):
  config = command_line.load_config(args.config, [])
  experiment = distributed.together(lambda: setup.set_up(config))
  checkpoints = Checkpoints(pathlib.Path(args.checkpoints), keep=3)
  start, batches, masks = go_on(experiment, checkpoints)
  rows = sharding.local_rows(
    sharding.batch_sharding(experiment.mesh), config.batch_size
  )
  np.savez(out / f'{args.process}.npz', *batches, rows=rows)
  copies = Checkpoints(out / 'checkpoints', keep=1)
  copies.save(start.step, start.state, {}, {})
  copies.wait()
  if distributed.is_primary():
    np.savez(out / 'masks.npz', **masks)
  experiment.batches.close()
  checkpoints.close()
  copies.close()
  return 0


if __name__ == '__main__':
  main()
