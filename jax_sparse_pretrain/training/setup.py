"""From a checked config to the parts of a run: the one place where they meet.

Everything that can be wrong with the input is found here, before anything is
compiled.
"""

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jax_sparse_pretrain import data as data_lib
from jax_sparse_pretrain import hardware, history, pruning, sharding
from jax_sparse_pretrain.config import Config, ConfigError
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.model.decoder import check_attention
from jax_sparse_pretrain.planning import Plan
from jax_sparse_pretrain.runs import sinks
from jax_sparse_pretrain.training import evaluate as evaluate_lib
from jax_sparse_pretrain.training import optimizer as optimizer_lib
from jax_sparse_pretrain.training import program_keys, programs, recipe
from jax_sparse_pretrain.training import step as step_lib

_VERSIONED = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'grain')


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The parts of a run.

  Attributes:
    config: checked.
    plan: the pruning schedule and the number of steps.
    mesh: devices.
    peak_flops: FLOP/s of all devices together; None if not known.
    header: of the mask history.
    abstract_state: shapes, types and shardings of the state.
    init: () -> fresh state, on the devices.
    init_masks: (params, finished steps) -> masks that keep everything.
    train_step: (state, rows, controls) -> (state, metrics); donates the state.
    forward: state -> the params that the forward pass sees.
    kept: state -> {kernel: bool[shape]} of kernels that are not dense.
    count_nonzero: state -> {kernel: counts per layer}.
    evaluate: params -> loss in nats.
    learning_rates: float32[steps].
    delay: steps from a mask update to the forward pass that first sees it.
    controls: step -> controls of that step.
    corpus: fingerprint of the data.
    batches: iterator over this process's rows, int32[rows, L + 1].
    to_devices: rows -> the global batch, sharded.
    unigram_loss: of the evaluation rows, in nats.
  """

  config: Config
  plan: Plan
  mesh: Mesh
  peak_flops: float | None
  header: history.Header
  abstract_state: step_lib.TrainState
  init: Callable[[], step_lib.TrainState]
  init_masks: Callable[[Any, int], Any]
  train_step: Callable
  forward: Callable[[step_lib.TrainState], Any]
  kept: Callable[[step_lib.TrainState], Any]
  count_nonzero: Callable
  evaluate: Callable[[Any], float]
  learning_rates: np.ndarray
  delay: int
  controls: Callable[[int], step_lib.Controls]
  corpus: dict[str, Any]
  batches: Iterator[np.ndarray]
  to_devices: Callable[[np.ndarray], jax.Array]
  unigram_loss: float

  @property
  def resolved(self) -> dict[str, Any]:
    """What `config.json` holds."""
    schedule = self.plan.schedule
    device = self.mesh.devices.flat[0]
    return {
      'config': dataclasses.asdict(self.config),
      'plan': {
        'steps': self.plan.steps,
        'dense_steps': self.plan.dense_steps,
        'mean_density': self.plan.mean_density,
        'compute_fractions': self.plan.compute_fractions,
        'start': schedule.start,
        'end': schedule.end,
        'every': schedule.every,
      },
      'corpus': self.corpus,
      'mesh': dict(self.mesh.shape),
      'hardware': {'kind': device.device_kind, 'peak_flops': self.peak_flops},
      'versions': {p: importlib.metadata.version(p) for p in _VERSIONED},
    }


class Parts(NamedTuple):
  """What a run is made of before there are data.

  Attributes:
    plan: the pruning schedule and the number of steps.
    mesh: devices.
    kernels: the linear parameters.
    pruner: of the config.
    programs: the jitted functions.
    evaluation_batch: rows of an evaluation step.
  """

  plan: Plan
  mesh: Mesh
  kernels: Mapping[str, pruning.Kernel]
  pruner: pruning.Pruner
  programs: programs.Programs
  evaluation_batch: int


def make_parts(
  config: Config, devices=None, cache: programs.Cache | None = None
) -> Parts:
  """What needs neither data nor arrays; nothing is compiled.

  Args:
    config: checked.
    devices: to run on; all if not given. They need not be here.
    cache: where programs are looked up and left for runs that share them.

  Raises:
    ConfigError: for input that cannot work, naming the key.
  """
  plan = recipe.make_plan(config)
  mesh = sharding.make_mesh(config.mesh, devices)
  sharding.check_batch(config, mesh)
  evaluation_batch = _evaluation_batch(config, mesh)
  check_attention(config.model)
  kernels = recipe.model_kernels(config.model)
  pruner = recipe.make_pruner(config, plan, kernels)
  made = _programs(config, mesh, kernels, pruner, cache)
  return Parts(plan, mesh, kernels, pruner, made, evaluation_batch)


def set_up(
  config: Config, devices=None, cache: programs.Cache | None = None
) -> Experiment:
  """Builds every part of a run.

  Args:
    config: checked.
    devices: to run on; all if not given.
    cache: where programs are looked up and left for runs that share them.

  Raises:
    ConfigError: for input that cannot work, naming the key.
  """
  sinks.check(config.logging)
  parts = make_parts(config, devices, cache)
  plan, mesh, made = parts.plan, parts.mesh, parts.programs
  data = _open_data(config, mesh)
  # Last, because it runs on the device; nothing can be refused from here on.
  learning_rates = optimizer_lib.learning_rates(config.optimizer, plan.steps)
  return Experiment(
    config=config,
    plan=plan,
    mesh=mesh,
    peak_flops=hardware.peak_of_mesh(mesh, config.logging.peak_flops),
    header=_header(config, parts.kernels),
    learning_rates=learning_rates,
    delay=parts.pruner.delay,
    controls=recipe.make_controls(config, plan, parts.pruner, learning_rates),
    corpus=data.corpus,
    batches=data.batches,
    to_devices=functools.partial(
      jax.make_array_from_process_local_data,
      sharding.batch_sharding(mesh),
      global_shape=(config.batch_size, config.model.context_length + 1),
    ),
    unigram_loss=evaluate_lib.unigram_loss(data.evaluation_rows),
    evaluate=evaluate_lib.make_evaluate(
      made.row_losses,
      data.evaluation_rows,
      parts.evaluation_batch,
      sharding.batch_sharding(mesh),
    ),
    abstract_state=made.abstract_state,
    init=functools.partial(made.init, config.seed),
    init_masks=made.init_masks,
    train_step=made.train_step,
    forward=made.forward,
    kept=made.kept,
    count_nonzero=made.count_nonzero,
  )


def _programs(
  config: Config, mesh: Mesh, kernels, pruner, cache: programs.Cache | None
) -> programs.Programs:
  if cache is None:
    return programs.make_programs(config, mesh, kernels, pruner)
  key = program_keys.program_key(config), mesh
  if key not in cache:
    cache[key] = programs.make_programs(config, mesh, kernels, pruner)
  return cache[key]


class _Data(NamedTuple):
  corpus: dict[str, Any]
  batches: Iterator[np.ndarray]
  evaluation_rows: np.ndarray


def _open_data(config: Config, mesh: Mesh) -> _Data:
  corpus = data_lib.open_corpus(config.data)
  tokenizer = data_lib.load_tokenizer(config.data)
  _check_vocabulary(config, tokenizer)
  rows = data_lib.evaluation_rows(
    corpus.validation,
    tokenizer,
    n_rows=config.evaluation.rows,
    context_length=config.model.context_length,
  )
  batches = data_lib.train_batches(
    corpus.train,
    tokenizer,
    batch_size=config.batch_size,
    context_length=config.model.context_length,
    streams=config.n_streams,
    seed=config.seed,
    prefetch=config.data.prefetch,
    rows=sharding.local_rows(sharding.batch_sharding(mesh), config.batch_size),
  )
  return _Data(corpus.fingerprint, batches, rows)


def _header(
  config: Config, kernels: Mapping[str, pruning.Kernel]
) -> history.Header:
  return history.Header(
    linear_parameters=counts.linear_parameters(config.model),
    total_parameters=counts.total_parameters(config.model),
    tokens_per_step=config.tokens_per_step,
    layers={name: k.n_layers * k.layer_size for name, k in kernels.items()},
  )


def _check_vocabulary(config: Config, tokenizer) -> None:
  if tokenizer.vocab_size > config.model.vocab_size:
    raise ConfigError(
      f'model.vocab_size = {config.model.vocab_size}: must be at least that of '
      f'the tokenizer, {tokenizer.vocab_size}'
    )


def _evaluation_batch(config: Config, mesh: Mesh) -> int:
  size = config.evaluation.batch_size
  if not size:
    return config.batch_size // config.accumulation_steps
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  if size % shards:
    raise ConfigError(
      f'evaluation.batch_size = {size}: must be divisible by the devices of '
      f'mesh.data x mesh.fsdp, {shards}'
    )
  return size
