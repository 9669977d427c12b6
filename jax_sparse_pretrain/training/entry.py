"""From a config to a trained run: what the command calls, and Python may.

`train_model` is the front door. `train_here` is what every process of a run
does, once it has joined the others.
"""

import contextlib
import os
from typing import Any

from jax_sparse_pretrain import distributed
from jax_sparse_pretrain.analysis.plots import training_picture
from jax_sparse_pretrain.command_line import StopRequest
from jax_sparse_pretrain.config import Config
from jax_sparse_pretrain.distributed import AgreedStop
from jax_sparse_pretrain.runs import lock
from jax_sparse_pretrain.runs import workdir as workdir_lib
from jax_sparse_pretrain.training import loop, setup


def train_model(
  config: Config, workdir: str | os.PathLike, *, fork: bool = False
) -> dict[str, Any]:
  """Trains a model, dense or sparse, and leaves its files in `workdir`.

  Call it again with the same arguments to continue a run that was stopped; a
  finished run returns its summary at once. The first SIGTERM or Ctrl-C ends
  the run after its step, saves the state and raises `Stopped`; a second Ctrl-C
  interrupts at once. Outside the main thread nothing hears signals. Progress
  goes to standard error. Several processes have to use the command
  `python -m jax_sparse_pretrain.train`.

  Args:
    config: what `load_config` returns.
    workdir: the run's directory, local or gs://; created if missing.
    fork: whether to go on from the workdir's checkpoint under an altered
      config.

  Returns:
    What `summary.json` holds: losses in nats per token, counts of linear
    parameters, compute in FLOPs.

  Raises:
    ConfigError: for input that cannot work, naming the key.
    Stopped: on a signal, once the state is saved.
    NonFiniteError: if the loss, the gradient or the weights are not finite.
    CheckpointError: if there are checkpoints and none can be read.
    TakenOver: if another start of the run has the workdir now.
  """
  with StopRequest() as stop:
    return train_here(config, workdir, stop, fork=fork)


def train_here(
  config: Config,
  workdir: str | os.PathLike,
  stop: StopRequest | AgreedStop,
  *,
  fork: bool = False,
) -> loop.Summary:
  """Trains in this process, together with the others of the run if any.

  Args:
    config: the checked config.
    workdir: the run's directory, which all processes share.
    stop: asked after every step whether to stop.
    fork: as for `train_model`.

  Returns and raises what `train_model` does, in every process alike.
  """
  distributed.on_primary(lambda: workdir_lib.open_workdir(workdir))
  root = distributed.together(lambda: workdir_lib.root_of(workdir))
  distributed.check_shared(root)
  experiment = distributed.together(lambda: setup.set_up(config))
  files = workdir_lib.Workdir(root)
  with contextlib.ExitStack() as stack:
    stack.callback(experiment.batches.close)
    distributed.check_alike({**experiment.resolved, '--fork': fork})
    claim = distributed.on_primary(
      lambda: stack.enter_context(lock.locked(files))
    )
    summary = _train_claimed(experiment, files, fork, stop, claim)
    distributed.on_primary(lambda: training_picture.save_training_picture(root))
    return summary


def _train_claimed(experiment, files, fork: bool, stop, claim) -> loop.Summary:
  previous = distributed.on_primary(
    lambda: workdir_lib.check_same_run(files, experiment.resolved, fork)
  )
  if not (previous and previous.changes):
    finished = distributed.on_primary(
      lambda: workdir_lib.finished_summary(files, experiment.plan.steps)
    )
    if finished:
      return finished
  return loop.train(experiment, files, stop, previous, claim=claim)
