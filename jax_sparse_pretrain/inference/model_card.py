"""The README of an exported model: what it is, and how it was made."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from jax_sparse_pretrain import history
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.inference.language_model import LanguageModel
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.runs.workdir import Workdir
from jax_sparse_pretrain.schema import one_line
from jax_sparse_pretrain.text import known, percent

_USE = {
  'huggingface': """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(DIRECTORY)
tokenizer = AutoTokenizer.from_pretrained(DIRECTORY)
```
""",
  'sparse': """\
```python
from jax_sparse_pretrain import load_model

model = load_model(DIRECTORY)
print(model.generate(['Once upon a time'])[0])
```

`model.sparse.safetensors` holds, of each pruned matrix, one bit a weight and
the weights that were kept, row by row.
""",
}


def card(
  model: LanguageModel, files: Workdir | None, dtype: str, format: str
) -> dict[str, bytes]:
  """The files to put beside the weights: `README.md` and perhaps a picture.

  Args:
    model: what `load_model` returns.
    files: the workdir that it comes from, if any.
    dtype: of the exported weights.
    format: 'huggingface' or 'sparse'.
  """
  found = {}
  has_picture = files is not None and files.picture.exists()
  if has_picture:
    found['training.png'] = files.picture.read_bytes()
  sections = [
    '---\nlibrary_name: '
    + ('transformers' if format == 'huggingface' else 'jax_sparse_pretrain')
    + '\npipeline_tag: text-generation\ntags: [sparse, pruning, llama]\n---\n',
    '# A sparse language model\n' if model.masks else '# A language model\n',
    _USE[format],
    _table('Architecture', _architecture(model, dtype)),
  ]
  if files is not None:
    sections += [
      _table('Size and training', _training(model, files)),
      _table('Data', _data(model)),
    ]
  if has_picture:
    sections.append('![Loss and nonzero parameters](training.png)\n')
  if model.masks and format == 'huggingface':
    sections.append(
      'Pruned weights are zeros. `masks.safetensors` holds the masks, one bit '
      'a weight: `numpy.unpackbits(bits, axis=1, bitorder="little")`. Most '
      'libraries compute with the zeros as with other numbers, so that they '
      'save no time there.\n'
    )
  found['README.md'] = '\n'.join(sections).encode()
  return found


def _table(title: str, lines: Iterator[tuple[str, str]]) -> str:
  rows = [f'| {name} | {value} |' for name, value in lines]
  return '\n'.join([f'## {title}\n', '| | |', '|---|---|', *rows, ''])


def _architecture(
  model: LanguageModel, dtype: str
) -> Iterator[tuple[str, str]]:
  sizes = model.config
  yield 'kind', 'Llama: RMSNorm, rotary embeddings, SwiGLU, no biases'
  yield 'layers', f'{sizes.n_layers}'
  yield 'width', f'{sizes.d_model}, feed-forward {sizes.d_ff}'
  shared = '' if sizes.kv_heads == sizes.n_heads else (
    f', {sizes.kv_heads} of keys and values'
  )  # fmt: skip
  yield 'heads', f'{sizes.n_heads} of {sizes.head_size} dimensions{shared}'
  tied = ', head tied to the embedding' if sizes.tie_embeddings else ''
  yield 'vocabulary', f'{sizes.vocab_size:,}{tied}'
  yield 'context', f'{sizes.context_length:,} tokens'
  yield 'weights', dtype


def _training(
  model: LanguageModel, files: Workdir
) -> Iterator[tuple[str, str]]:
  step, config = model.step, model.run['config']
  linear = counts.linear_parameters(model.config)
  yield 'linear parameters at the start (N_initial)', f'{linear:,}'
  if model.masks:
    pruned = sum(int(np.sum(~mask)) for mask in model.masks.values())
    final = linear - pruned
    try:
      average = history.read(files.history).average_parameters(step)
    except (ValueError, OSError) as error:
      raise ConfigError(f'{files.history}: {one_line(error)}') from None
    yield (
      'on average over training (N_avg)',
      (f'{average:,.0f}, {percent(average / linear)}'),
    )
    yield 'here (N_final)', f'{final:,}, {percent(final / linear)}'
    asked, plan = config['pruning'], model.run['plan']
    if config['init_masks_from_zeros']:
      yield 'masks', 'at the start, the zeros of the model begun from'
    if asked['sparsity']:
      yield (
        'pruning',
        (
          f'{asked["algorithm"]}, {asked["structure"]}, '
          f'{asked["distribution"]}; {asked["schedule"]} schedule to a '
          f'sparsity of {asked["sparsity"]}, steps {plan.get("start", "?")} '
          f'to {plan.get("end", "?")}'
        ),
      )
  else:
    average = linear
  yield 'all parameters', f'{counts.total_parameters(model.config):,}'
  yield 'steps', f'{step:,}'
  tokens = _tokens(model, files)
  if tokens is not None:
    compute = counts.training_flops(average, tokens)
    yield 'tokens (D)', f'{tokens:,}'
    yield 'compute (C = 6 N_avg D)', f'{compute:.4g} FLOPs'
  if config['init_from']:
    yield 'begun from', f'`{config["init_from"]}`, whose tokens are not counted'
  summary = _summary(files)
  if summary.get('steps') == step:
    for name, value in summary.items():
      if name.startswith('eval_loss') and value is not None:
        yield name.replace('_', ' '), f'{value:.4f} nats per token'
    loss = summary.get('train_loss')
    yield 'training loss', known(loss, lambda x: f'{x:.4f}')


def _tokens(model: LanguageModel, files: Workdir) -> int | None:
  """D: the targets in the loss so far; None if the run has not logged them."""
  config = model.run['config']
  if not config['data']['mask_documents']:
    row = config['model']['context_length']
    return model.step * config['batch_size'] * row
  with contextlib.suppress(Exception):  # Object stores raise many kinds.
    for line in files.metrics.read_text().splitlines():
      logged = json.loads(line)
      if logged['step'] == model.step:
        return round(logged['tokens'])
  return None


def _summary(files: Workdir) -> dict[str, Any]:
  try:
    summary = json.loads(files.summary.read_text())
  except Exception:  # Object stores raise many kinds; a run may have none yet.
    return {}
  return summary if isinstance(summary, dict) else {}


def _data(model: LanguageModel) -> Iterator[tuple[str, str]]:
  corpus = model.run['corpus'] or {}
  data = model.run['config']['data']
  where = data['path'] or ', '.join(path for path, _ in data['mixture'])
  yield 'source', f'{data["source"]} `{where}`' if where else data['source']
  for split in ('train', 'validation'):
    about = corpus.get(split, {})
    yield (
      split,
      (
        f'{known(about.get("documents"), lambda x: f"{x:,}")} documents, '
        f'{known(about.get("tokens"), lambda x: f"{x:,}")} tokens, '
        f'SHA-256 `{about.get("sha256", "not known")[:16]}`'
      ),
    )
  tokenizer = corpus.get('tokenizer')
  if tokenizer:
    yield (
      'tokenizer',
      (
        f'{tokenizer["kind"]} of {tokenizer["vocab_size"]:,} ids, SHA-256 '
        f'`{tokenizer["sha256"][:16]}`'
      ),
    )
