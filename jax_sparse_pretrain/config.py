"""An experiment: every key, its type, default and range.

The defaults are the paper's recipe (arXiv 2501.12486). A file in `configs/`
states what it changes. `config_checks` knows which keys contradict each other.
Standard library only.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from jax_sparse_pretrain import config_checks, schema
from jax_sparse_pretrain.schema import (
  AXIS,
  BELOW_ONE,
  FRACTION,
  NOT_NEGATIVE,
  POSITIVE,
  Allowed,
  at_least,
  fixed,
  free,
  key,
)
from jax_sparse_pretrain.schema import ConfigError as ConfigError


@dataclasses.dataclass(frozen=True)
class Model:
  """A Llama-2 style decoder."""

  vocab_size: int = fixed(32_000, at_least(2))
  n_layers: int = fixed(6, at_least(1))
  d_model: int = fixed(512, at_least(2))
  n_heads: int = fixed(8, at_least(1))
  # Heads of keys and values, each shared by as many queries; 0: n_heads.
  n_kv_heads: int = fixed(0, at_least(0))
  head_dim: int = fixed(0, at_least(0))  # 0: d_model / n_heads
  d_ff: int = fixed(2048, at_least(1))  # the paper: 4 d_model
  context_length: int = fixed(2048, at_least(2))  # tokens a row
  # Whether the head multiplies with the embedding, which then is a lookup
  # table first: not a linear parameter, not in N and not pruned, unless
  # `tied_is_linear` makes it one.
  tie_embeddings: bool = fixed(False)
  tied_is_linear: bool = fixed(False)
  rope_base: float = key(10_000.0, at_least(1))
  # llama3: frequencies that turn less than once over the original context are
  # divided by a factor, so that longer contexts look alike.
  rope_scaling: Literal['none', 'llama3'] = key('none')
  rope_factor: float = key(8.0, at_least(1))  # this and the rest: llama3 only
  rope_low_frequency_factor: float = key(1.0, POSITIVE)
  rope_high_frequency_factor: float = key(4.0, POSITIVE)
  rope_original_length: int = key(8192, at_least(1))
  norm_eps: float = key(1e-5, POSITIVE)
  z_loss: float = key(0.0, at_least(0))  # times mean log(Z)^2
  compute_dtype: Literal['bfloat16', 'float32'] = key('bfloat16')
  scan_layers: bool = fixed(True)  # one traced block: compiles faster
  remat: bool = key(False)  # recompute a block's activations in the backward
  attention: Literal['auto', 'xla', 'cudnn'] = key('auto')

  @property
  def kv_heads(self) -> int:
    """Heads of keys and values."""
    return self.n_kv_heads or self.n_heads

  @property
  def head_size(self) -> int:
    """Dimensions of a head."""
    return self.head_dim or self.d_model // self.n_heads


@dataclasses.dataclass(frozen=True)
class Data:
  """Documents -> tokens -> packed rows."""

  # tokens: what `python -m jax_sparse_pretrain.prepare` has made; for all but
  # small corpora. The others are tokenized in memory at each start.
  source: Literal['tokens', 'text', 'stdlib', 'tfds'] = fixed('tokens')
  # tokens: a prepared directory, or a glob of several. text: a file, directory
  # or glob of text, JSON, Parquet or Arrow, perhaps compressed. tfds:
  # `name[/config]:version`, or the directory of a data set. stdlib: empty.
  path: str = free('')
  # tokens only, in place of `path`: (path, weight) pairs. Of every 10,000 rows
  # each set gives its exact share.
  mixture: tuple[tuple[str, float], ...] = free(())
  # tfds: where `name:version` is prepared. Empty: the TFDS default.
  data_dir: str = free('')
  # The field of a record that is the text; `a.b` if it is nested.
  text_feature: str = fixed('text')
  # A document that is not UTF-8, or lacks the field: 'strict' ends the run
  # before it begins, 'replace' mends what is not UTF-8, 'skip' leaves it out.
  errors: Literal['strict', 'replace', 'skip'] = fixed('strict')
  train_split: str = fixed('train')  # tfds only
  validation_split: str = fixed('validation')  # tfds only
  # stdlib and text: share of documents held out, by a hash of their text. With
  # few text files, the last share of each is held out instead.
  validation_fraction: float = fixed(
    0.05, Allowed('in (0, 1)', lambda value: 0 < value < 1)
  )
  # stdlib and text: cut files, at the ends of lines, into documents of about
  # this many bytes; 0: keep them whole. A short run sees few whole files, and
  # its loss depends on which. A file's pieces are all held out, or none.
  piece_bytes: int = fixed(0, at_least(0))
  # auto: the one that prepared the tokens.
  tokenizer: Literal['auto', 'bytes', 'sentencepiece', 'huggingface'] = fixed(
    'auto'
  )
  tokenizer_path: str = free('')  # .model (sentencepiece), .json (huggingface)
  # Names of the tokens that open and close a document; empty: as the
  # tokenizer says.
  bos: str = fixed('')
  eos: str = fixed('')
  # Whether attention and loss stay within documents. The paper's do not.
  mask_documents: bool = fixed(False)
  prefetch: int = free(4, at_least(0))  # batches prepared ahead by a thread


@dataclasses.dataclass(frozen=True)
class Duration:
  """How long to train; `dense_steps` is the compute of so many dense steps."""

  value: int = key(10_000, POSITIVE)
  unit: Literal['steps', 'tokens', 'dense_steps'] = key('dense_steps')


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """AdamW."""

  peak_lr: float = key(1e-3, POSITIVE)
  schedule: Literal['cosine', 'linear', 'constant', 'warmup_stable_decay'] = (
    key('cosine')
  )
  warmup_fraction: float = key(0.01, BELOW_ONE)  # of all steps
  # If not 0, steps of warm-up in place of warmup_fraction: runs that differ in
  # length then begin alike.
  warmup_steps: int = key(0, at_least(0))
  decay_fraction: float = key(0.2, FRACTION)  # warmup_stable_decay only
  final_lr_fraction: float = key(0.1, FRACTION)  # of the peak
  b1: float = key(0.9, BELOW_ONE)
  b2: float = key(0.95, BELOW_ONE)
  eps: float = key(1e-8, POSITIVE)
  weight_decay: float = key(0.1, at_least(0))
  decay_norms: bool = key(False)  # whether norm scales decay too
  clip_norm: float = key(1.0, at_least(0))  # global norm; 0: no clipping


@dataclasses.dataclass(frozen=True)
class Pruning:
  """Which share of the linear parameters is pruned, and when."""

  sparsity: float = key(0.0, BELOW_ONE)  # 0: a dense run
  library: Literal['builtin', 'jaxpruner'] = fixed('builtin')
  # builtin: magnitude or random. jaxpruner: any of its registered updaters.
  algorithm: str = fixed('magnitude')
  # jaxpruner only: (name, value) pairs of its other keys.
  options: tuple[tuple[str, str], ...] = fixed(())
  schedule: Literal[
    'geometric', 'cubic', 'polynomial', 'linear', 'one_shot', 'constant'
  ] = key('geometric')
  power: float = key(3.0, POSITIVE)  # of 'polynomial'
  # global: one threshold over all kernels. uniform: the same sparsity in each
  # layer. erk: a sparsity by the layer's dimensions (Erdos-Renyi).
  distribution: Literal['global', 'uniform', 'erk'] = key('global')
  exempt: tuple[str, ...] = fixed(())  # patterns of kernels that stay dense
  # (pattern, sparsity) pairs for kernels that differ; uniform and erk only.
  sparsities: tuple[tuple[str, float], ...] = fixed(())
  start: float = key(0.25, at_least(0))
  end: float = key(0.75, at_least(0))
  unit: Literal['compute_fraction', 'step_fraction', 'steps'] = key(
    'compute_fraction'
  )
  # What is kept or dropped together; axes are those of one layer.
  structure: Literal['unstructured', 'n_by_m', 'block', 'channel'] = fixed(
    'unstructured'
  )
  n: int = fixed(2, at_least(1))  # n_by_m: kept of every m
  m: int = fixed(4, at_least(1))
  axis: int = fixed(-1)  # n_by_m and channel
  block_height: int = fixed(4, at_least(1))  # along the first axis
  block_width: int = fixed(4, at_least(1))  # along the second
  # before: a mask update comes before the forward pass of its step. after: it
  # comes after the backward pass, as in jaxpruner, and pruned weights get
  # gradients.
  order: Literal['before', 'after'] = fixed('before')
  mask_gradients: bool = fixed(False)  # in the order 'after'
  regrow: bool = fixed(False)  # whether a pruned weight may return
  pack_masks: bool = fixed(False)  # one bit a weight instead of one byte
  snapshots: tuple[int, ...] = free(())  # finished steps to save the masks at
  # Whether the mask history says how much of sum |w| each update keeps.
  measure_mass: bool = free(True)
  # Steps between mask updates. The ramp is a whole number of such periods; if
  # start and end are given in steps, the last period may be shorter.
  every: int = key(50, at_least(1))


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Devices along each axis of the mesh; at most one may be -1."""

  data: int = free(-1, AXIS)  # batch split, parameters replicated
  fsdp: int = free(1, AXIS)  # batch split, parameters split
  tensor: int = free(1, AXIS)  # heads, d_ff and vocabulary split


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Fixed sets of validation rows."""

  # (name, prepared directory) pairs whose losses are reported by name, beside
  # that of the data's own validation split.
  sets: tuple[tuple[str, str], ...] = free(())
  every: int = free(1000, at_least(0))  # steps; 0: only at the end
  rows: int = key(1024, at_least(1))
  batch_size: int = free(0, at_least(0))  # rows; 0: a micro-batch


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  every: int = free(1000, at_least(0))  # steps; 0: only at the end
  keep: int = free(2, at_least(1))  # so many of the newest
  # Checkpoints at multiples of this many steps stay for good; 0: none do.
  keep_every: int = free(0, at_least(0))


@dataclasses.dataclass(frozen=True)
class Logging:
  every: int = free(50, at_least(1))  # steps
  tensorboard: bool = free(True)
  wandb_project: str = free('')  # empty: no Weights & Biases
  # FLOP/s of one device for MFU; 0: looked up by the device's name.
  peak_flops: float = free(0.0, NOT_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class Config:
  """One experiment."""

  seed: int = key(0, at_least(0))
  batch_size: int = fixed(256, at_least(1))  # rows a step, over all devices
  accumulation_steps: int = key(1, at_least(1))  # micro-batches a step
  # A directory with a Llama of Hugging Face, such as `export` writes, whose
  # weights the run begins with; empty: random weights. A run that goes on from
  # a checkpoint does not need it any more.
  init_from: str = free('')
  # Whether weights that are zero there count as pruned. With
  # pruning.sparsity = 0, the masks stay as they are.
  init_masks_from_zeros: bool = fixed(False)
  # Whether its tokenizer may differ from that of the data.
  init_other_tokenizer: bool = free(False)
  model: Model = Model()
  data: Data = Data()
  duration: Duration = Duration()
  optimizer: Optimizer = Optimizer()
  pruning: Pruning = Pruning()
  mesh: Mesh = Mesh()
  evaluation: Evaluation = Evaluation()
  checkpoint: Checkpoint = Checkpoint()
  logging: Logging = Logging()

  @property
  def has_masks(self) -> bool:
    """Whether a part of the weights is, or will be, held at zero."""
    return self.pruning.sparsity > 0 or self.init_masks_from_zeros

  @property
  def tokens_per_step(self) -> int:
    return self.batch_size * self.model.context_length


def defaults() -> dict[str, Any]:
  """The paper's recipe as nested dicts, for `ml_collections.ConfigDict`."""
  return dataclasses.asdict(Config())


def from_dict(values: Mapping[str, Any]) -> Config:
  """Nested mapping -> checked `Config`.

  Raises:
    ConfigError: for an unknown key, a wrong type, a value out of range, or
      keys that contradict each other.
  """
  config = schema.build(Config, values)
  config_checks.check_together(config)
  return config


def alterations(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, list[str]]:
  """Keys that differ, sorted by what it takes to go on with the new value.

  Args:
    old: nested dict of a config; may lack keys that a later version added.
    new: nested dict of a config.

  Returns:
    Lists of `key: old -> new` under 'nothing', 'fork' and 'new run'.
  """
  old_leaves = dict(schema.leaves(old))
  changes = {'nothing': [], 'fork': [], 'new run': []}
  for name, value in schema.leaves(new):
    before = old_leaves.get(name, 'unset')
    if before != value:
      takes = schema.field(Config, name).metadata['change']
      changes[takes].append(f'{name}: {before} -> {value}')
  return changes
