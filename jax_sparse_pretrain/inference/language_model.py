"""A model to use: from a workdir, or from a directory of Hugging Face."""

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import schema, storage
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.data import tokenizers
from jax_sparse_pretrain.huggingface import llama, model_directory
from jax_sparse_pretrain.model.decoder import Decoder
from jax_sparse_pretrain.runs import checkpoint, workdir
from jax_sparse_pretrain.training import recipe

# Of a directory, unless another one is asked for.
_LONGEST_CONTEXT = 2048


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
  """Weights that can be used, wherever they come from.

  Attributes:
    config: sizes and options; its `compute_dtype` is that of activations.
    params: a tree like the decoder's, float32 or bfloat16.
    masks: {kernel: bool[shape]} on the host; kernels that are left out are
      dense. None for a model that was never pruned, or that does not say.
    tokenizer: None if there is none.
    run: what the run's `config.json` holds; None for a model that is not in a
      workdir.
    step: finished steps of the checkpoint; None likewise.
    directory: that of Hugging Face, if it is from one.
  """

  config: config_lib.Model
  params: Any
  masks: Mapping[str, np.ndarray] | None
  tokenizer: tokenizers.Tokenizer | None
  run: Mapping[str, Any] | None = None
  step: int | None = None
  directory: model_directory.ModelDirectory | None = None

  def logits(self, tokens: Any) -> jax.Array:
    """Next-token logits float32[B, L, V] of token ids, int[B, L]."""
    tokens = np.asarray(tokens, np.int32)
    known = range(self.config.vocab_size)
    if tokens.size and not (tokens.min() in known and tokens.max() in known):
      raise ValueError(f'tokens: must be from 0 to {known[-1]}')
    if tokens.ndim != 2:
      raise ValueError(
        f'tokens: must be int[B, L], not of shape {tokens.shape}'
      )
    return self._forward(self.params, tokens)

  def loss(self, texts: Sequence[str]) -> float:
    """Mean loss of all tokens of some texts, in nats.

    Each is a document as in training, `[BOS] ids [EOS]`. One that is longer
    than the context is read in stretches of that length.
    """
    from jax_sparse_pretrain.inference import evaluation

    if isinstance(texts, str):
      raise TypeError('texts: must be a list of texts, not a text')
    return evaluation.evaluate_texts(self, texts).loss

  def generate(self, prompts: Sequence[str], **options) -> list[str]:
    """What the model writes after each prompt, without the prompt.

    Args:
      prompts: any number of texts, of any lengths.
      **options: `max_tokens`, `temperature`, `top_k`, `top_p`, `seed`,
        `samples`, `engine` and `on_text`, as in `generation.generate`.
    """
    if isinstance(prompts, str):
      raise TypeError('prompts: must be a list of texts, not a text')
    from jax_sparse_pretrain.inference import generation

    return generation.generate(self, prompts, **options)

  def encode(self, text: str) -> np.ndarray:
    """Ids of a text that goes on, int32[n]: BOS, if there is one, and its own.

    Raises:
      ConfigError: if the model has no tokenizer, or the text is not Unicode.
    """
    tokenizer = self.require_tokenizer()
    try:
      text.encode()
    except UnicodeEncodeError:
      raise ConfigError(f'{text[:40]!r}: is not UTF-8') from None
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    [ids] = tokenizer.encode([text])
    return np.concatenate([np.array(bos, np.int32), ids])

  def require_tokenizer(self) -> tokenizers.Tokenizer:
    """The tokenizer; raises ConfigError if there is none."""
    if self.tokenizer is None:
      raise ConfigError('the model has no tokenizer')
    return self.tokenizer

  @functools.cached_property
  def _forward(self):
    decoder = Decoder(self.config)
    return jax.jit(lambda params, x: decoder.apply({'params': params}, x))


def load_model(
  path: str | os.PathLike,
  step: int | None = None,
  *,
  compute_dtype: str | None = None,
  context_length: int | None = None,
) -> LanguageModel:
  """Opens a workdir, or a directory of Hugging Face, and changes nothing there.

  It needs neither the data nor the devices of the run. The weights go from the
  host to the device leaf by leaf.

  Args:
    path: the directory, also `gs://BUCKET/...`.
    step: the checkpoint of a workdir, by default the newest.
    compute_dtype: 'float32' or 'bfloat16', of activations; by default as in
      training, or as the weights are stored.
    context_length: tokens that it reads at once; by default as in training, or
      that of the directory, but at most 2,048.

  Raises:
    ConfigError: if it is neither, or has no such checkpoint.
    CheckpointError: if the checkpoint cannot be read.
  """
  root = storage.as_path(path)
  if model_directory.is_model_directory(root):
    if step is not None:
      raise ConfigError(f'{path}: is no workdir, and has no step {step}')
    model = _of_directory(model_directory.ModelDirectory(root))
  else:
    model = _of_workdir(workdir.Workdir(root), step)
  changes: dict[str, Any] = {}
  if compute_dtype is not None:
    changes['compute_dtype'] = compute_dtype
  if context_length is not None:
    changes['context_length'] = context_length
  sizes = schema.build(
    config_lib.Model, {**dataclasses.asdict(model.config), **changes}
  )
  return dataclasses.replace(model, config=sizes)


def without_weights(path: str | os.PathLike) -> LanguageModel:
  """A directory of Hugging Face, for an engine that reads the weights itself.

  Raises:
    ConfigError: if it is none.
  """
  directory = model_directory.ModelDirectory(path)
  return LanguageModel(
    _usable(directory.model),
    None,
    None,
    directory.tokenizer(),
    directory=directory,
  )


def _usable(sizes: config_lib.Model) -> config_lib.Model:
  """Published contexts are longer than attention here can hold."""
  length = min(sizes.context_length, _LONGEST_CONTEXT)
  return dataclasses.replace(sizes, context_length=length)


def _of_directory(directory: model_directory.ModelDirectory) -> LanguageModel:
  directory.check()
  # One copy: each leaf goes to the device before the next one is read.
  params = {
    path: jnp.asarray(leaf)
    for path, leaf in llama.leaves_of(directory.model, directory.read)
  }
  masks = dict(
    llama.leaves_of(directory.model, directory.mask, directory.has_mask)
  )
  return LanguageModel(
    _usable(directory.model),
    llama.as_tree(params),
    masks or None,
    directory.tokenizer(),
    directory=directory,
  )


def _of_workdir(files: workdir.Workdir, step: int | None) -> LanguageModel:
  if not files.config.exists():
    raise ConfigError(
      f'{files.root}: is neither the workdir of a run nor a model of Hugging '
      'Face'
    )
  run = workdir.read_resolved(files)
  config = config_lib.from_dict(run['config'])
  steps = files.saved_steps
  if not steps or step not in (None, *steps):
    there = f'there are {", ".join(map(str, steps))}' if steps else 'none yet'
    what = 'checkpoint' if step is None else f'checkpoint of step {step}'
    raise ConfigError(f'{files.root}: has no {what}; {there}')
  step = steps[-1] if step is None else step
  _warn_of_forks(run, step)
  # A kernel for the devices of the run may not be here.
  sizes = dataclasses.replace(config.model, attention='auto')
  pruner = recipe.make_pruner(config, recipe.make_plan(config))
  model = Decoder(sizes)
  abstract = jax.eval_shape(
    lambda: model.init(jax.random.key(0), np.zeros((1, 2), np.int32))
  )
  abstract = nn.unbox(abstract['params'])
  params, masks = checkpoint.read_weights(
    files.checkpoints, step, abstract, jax.eval_shape(pruner.init, abstract)
  )
  kept = None
  if masks is not None:
    kept = jax.device_get(pruner.kept(params, masks))
    if pruner.straight_through:
      params = pruner.forward(params, masks)
  del masks
  # The copy of the host goes leaf by leaf.
  leaves, tree = jax.tree.flatten(params)
  del params
  leaves.reverse()
  moved = [jnp.asarray(leaves.pop()) for _ in range(len(leaves))]
  return LanguageModel(
    sizes,
    jax.tree.unflatten(tree, moved),
    kept,
    _tokenizer(files, config, run),
    run,
    step,
  )


def _warn_of_forks(run: Mapping[str, Any], step: int) -> None:
  """The config is that of the newest fork."""
  later = [fork for fork in run.get('forks', []) if fork['step'] >= step]
  if later:
    changes = '; '.join(c for fork in later for c in fork['changes'])
    warnings.warn(
      f'step {step} is from before a fork, and is opened under the config '
      f'after it: {changes}',
      stacklevel=4,
    )


def _tokenizer(
  files: workdir.Workdir, config: config_lib.Config, run: Mapping[str, Any]
) -> tokenizers.Tokenizer | None:
  """The tokenizer of a run: its copy, or, of older runs, the file itself."""
  identity = (run['corpus'] or {}).get('tokenizer')
  if identity and identity['kind'] not in tokenizers.KINDS:
    return None  # Of adopted tokens, only the boundaries are known.
  if not identity:  # Written by an earlier version.
    with contextlib.suppress(ConfigError, KeyError):
      return tokenizers.load_tokenizer(config.data)
    return None
  if identity['kind'] == 'bytes':
    return tokenizers.ByteTokenizer()
  path = files.tokenizer(identity['kind'])
  if not path.exists():
    path = storage.as_path(config.data.tokenizer_path or path)
  try:
    model = path.read_bytes()
  except Exception:  # Object stores raise many kinds.
    return None
  return tokenizers.from_identity(identity, model)
