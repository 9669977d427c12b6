"""From a checked config to a run: the one place where its parts meet.

Everything that can be wrong with the input is found here, before anything is
compiled.
"""

import dataclasses
import functools
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jax_sparse_pretrain import data as data_lib
from jax_sparse_pretrain import hardware, history, pruning, sharding
from jax_sparse_pretrain.config import Config, ConfigError
from jax_sparse_pretrain.huggingface.model_directory import ModelDirectory
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.model.decoder import check_attention
from jax_sparse_pretrain.planning import Plan
from jax_sparse_pretrain.runs import sinks
from jax_sparse_pretrain.training import init_from, jitted, recipe
from jax_sparse_pretrain.training import optimizer as optimizer_lib
from jax_sparse_pretrain.training import step as step_lib

# A vocabulary this many times that of the tokenizer is more than padding.
_WIDE_VOCABULARY = 1.5

_VERSIONED = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'grain')


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a run is made of before there are data or arrays.

  Attributes:
    config: the checked config.
    plan: the pruning schedule and the number of steps.
    mesh: the devices.
    kernels: the linear parameters by path.
    pruner: what prunes them.
    programs: the jitted functions.
  """

  config: Config
  plan: Plan
  mesh: Mesh
  kernels: Mapping[str, pruning.Kernel]
  pruner: pruning.Pruner
  programs: jitted.Programs


@dataclasses.dataclass(frozen=True)
class Experiment(Parts):
  """A run that is ready to start.

  Attributes:
    corpus: the fingerprint of the data.
    tokenizer: made the tokens; None if only its boundaries are known.
    model: holds the weights to begin with; None for random ones, or if they
      are not there any more.
    notes: lines about the data, for a person.
    batches: iterator over this process's rows of each batch; to be closed
      when done.
    evaluation_rows: on the host, the same in every process, by the name of
      the metric: `eval_loss`, and `eval_loss_NAME` of further sets.
    unigram_loss: what the best guess without context would lose there, in
      nats.
    learning_rates: float32[steps].
    controls: step (0-based) -> the controls of that step.
  """

  corpus: dict[str, Any]
  tokenizer: data_lib.Tokenizer | None
  model: ModelDirectory | None
  notes: tuple[str, ...]
  batches: data_lib.BatchIterator
  evaluation_rows: Mapping[str, np.ndarray]
  unigram_loss: float
  learning_rates: np.ndarray
  controls: Callable[[int], step_lib.Controls]

  def init(self) -> step_lib.TrainState:
    """A fresh state, on the devices.

    Raises:
      ConfigError: if the weights to begin with are not there.
    """
    if not self.config.init_from:
      return self.programs.init(self.config.seed)
    if self.model is None:
      raise ConfigError(
        f'init_from = {self.config.init_from!r}: must be a directory'
      )
    params = init_from.read_params(
      self.config.model,
      self.model,
      self.programs.params_sharding,
      keeps_zeros=self.config.init_masks_from_zeros,
    )
    return self.programs.begin(params)

  def to_devices(self, rows: np.ndarray) -> jax.Array:
    """This process's rows of a batch -> the global batch, sharded."""
    return jax.make_array_from_process_local_data(
      sharding.batch_sharding(self.mesh),
      rows,
      global_shape=(self.config.batch_size, *rows.shape[1:]),
    )

  def evaluate(self, params: Any) -> dict[str, float]:
    """Mean loss over each set of evaluation rows, in nats."""
    return {
      name: step_lib.evaluate(
        self.programs.row_losses,
        params,
        rows,
        _evaluation_batch(self.config, self.mesh),
        sharding.batch_sharding(self.mesh),
      )
      for name, rows in self.evaluation_rows.items()
    }

  @property
  def delay(self) -> int:
    """Steps from a mask update to the forward pass that first sees it."""
    return self.pruner.delay

  @property
  def peak_flops(self) -> float | None:
    """FLOP/s of all devices together; None if not known."""
    given = self.config.logging.peak_flops
    return hardware.peak_of_mesh(self.mesh, given)

  @functools.cached_property
  def header(self) -> history.Header:
    """The first line of the mask history."""
    model = self.config.model
    return history.Header(
      linear_parameters=counts.linear_parameters(model),
      total_parameters=counts.total_parameters(model),
      tokens_per_step=self.config.tokens_per_step,
      layers={n: k.n_layers * k.layer_size for n, k in self.kernels.items()},
    )

  @property
  def _begins_with(self) -> str | None:
    """What identifies the first weights; None if they are not there."""
    if not self.config.init_from:
      return 'random weights'
    return self.model and self.model.fingerprint

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
      'begins_with': self._begins_with,
      'mesh': dict(self.mesh.shape),
      'hardware': {'kind': device.device_kind, 'peak_flops': self.peak_flops},
      'versions': {p: importlib.metadata.version(p) for p in _VERSIONED},
    }


def make_parts(
  config: Config, devices=None, cache: jitted.Cache | None = None
) -> Parts:
  """Makes what needs neither data nor arrays; compiles nothing.

  Args:
    config: the checked config.
    devices: the devices to run on, by default all. They need not be here.
    cache: where programs are looked up and left for runs that share them.

  Raises:
    ConfigError: for input that cannot work, naming the key.
  """
  plan = recipe.make_plan(config)
  mesh = sharding.make_mesh(config.mesh, devices)
  sharding.check_batch(config, mesh)
  _evaluation_batch(config, mesh)
  check_attention(config.model)
  kernels = recipe.model_kernels(config.model)
  pruner = recipe.make_pruner(config, plan)
  cache = {} if cache is None else cache
  key = jitted.program_key(config), mesh
  if key not in cache:
    cache[key] = jitted.make_programs(config, mesh, kernels, pruner)
  return Parts(config, plan, mesh, kernels, pruner, cache[key])


def set_up(
  config: Config, devices=None, cache: jitted.Cache | None = None
) -> Experiment:
  """Makes every part of a run.

  Args:
    config: the checked config.
    devices: the devices to run on, by default all.
    cache: where programs are looked up and left for runs that share them.

  Raises:
    ConfigError: for input that cannot work, naming the key.
  """
  sinks.check(config.logging)
  parts = make_parts(config, devices, cache)
  data = _open_data(config, parts.mesh)
  # Last, because it runs on the devices: nothing can be refused from here on.
  rates = optimizer_lib.learning_rates(config.optimizer, parts.plan.steps)
  return Experiment(
    **vars(parts),
    **data,
    learning_rates=rates,
    controls=recipe.make_controls(config, parts.plan, parts.pruner, rates),
  )


def _open_data(config: Config, mesh: Mesh) -> dict[str, Any]:
  corpus = data_lib.open_corpus(config.data)
  if corpus.vocab_size > config.model.vocab_size:
    raise ConfigError(
      f'model.vocab_size = {config.model.vocab_size}: must be at least that of '
      f'the tokenizer, {corpus.vocab_size}'
    )
  _warn_of_unused_ids(config, corpus.vocab_size)
  model = None
  if config.init_from:
    model = init_from.open_model(config, corpus.tokenizer)
  evaluated = {'eval_loss': corpus}
  for name, path in config.evaluation.sets:
    evaluated[f'eval_loss_{name}'] = data_lib.open_evaluation_set(corpus, path)
  evaluation_rows = {
    name: data_lib.evaluation_rows(
      each,
      n_rows=config.evaluation.rows,
      context_length=config.model.context_length,
      mask_documents=config.data.mask_documents,
      name=name,
    )
    for name, each in evaluated.items()
  }
  batches = data_lib.train_batches(
    corpus,
    batch_size=config.batch_size,
    context_length=config.model.context_length,
    seed=config.seed,
    prefetch=config.data.prefetch,
    mask_documents=config.data.mask_documents,
    rows=sharding.local_rows(sharding.batch_sharding(mesh), config.batch_size),
  )
  return {
    'corpus': corpus.fingerprint,
    'tokenizer': corpus.tokenizer,
    'model': model,
    'notes': corpus.notes,
    'batches': batches,
    'evaluation_rows': evaluation_rows,
    'unigram_loss': step_lib.unigram_loss(evaluation_rows['eval_loss']),
  }


def _warn_of_unused_ids(config: Config, used: int) -> None:
  """The head counts as linear parameters, ids that never occur included."""
  if config.model.vocab_size <= _WIDE_VOCABULARY * used:
    return
  model = dataclasses.replace(config.model, vocab_size=used)
  warnings.warn(
    f'model.vocab_size = {config.model.vocab_size}: the tokenizer has {used} '
    f'ids; N is {counts.linear_parameters(config.model):,}, and would be '
    f'{counts.linear_parameters(model):,} with as many',
    stacklevel=2,
  )


def _evaluation_batch(config: Config, mesh: Mesh) -> int:
  """Rows of an evaluation step."""
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
