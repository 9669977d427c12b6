"""What the files of a run say, and whether two runs are the same."""

import json
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

TIMINGS = {'data_seconds', 'tokens_per_second', 'wall_seconds'}


class Run:
  """What the files of a run say, at any moment of it."""

  def __init__(self, workdir):
    self.workdir = pathlib.Path(workdir)

  def lines(self, name):
    """Whole lines of a JSON Lines file."""
    path = self.workdir / name
    whole = path.read_text().split('\n')[:-1] if path.exists() else []
    return [json.loads(line) for line in whole]

  @property
  def steps(self):
    """Steps up to the newest line of metrics."""
    return max([0, *(line['step'] for line in self.lines('metrics.jsonl'))])

  @property
  def last_update(self):
    """Step of the newest row of the mask history."""
    return max(
      [0, *(row['step'] for row in self.lines('mask_history.jsonl')[1:])]
    )

  @property
  def saved(self):
    """Steps with a finished checkpoint."""
    return sorted(int(p.name) for p in self._checkpoints() if p.name.isdigit())

  @property
  def being_saved(self):
    """Steps of checkpoints that are half written."""
    names = (p.name.split('.') for p in self._checkpoints())
    return [int(step) for step, *rest in names if rest]

  def _checkpoints(self):
    return list((self.workdir / 'checkpoints').glob('*'))

  @property
  def metrics(self):
    return [without_timings(line) for line in self.lines('metrics.jsonl')]

  @property
  def summary(self):
    return without_timings(
      json.loads((self.workdir / 'summary.json').read_text())
    )

  def checkpoint(self, step):
    """Every array of a checkpoint by path, as Orbax alone reads it."""
    state = self.workdir / 'checkpoints' / str(step) / 'state'
    with ocp.StandardCheckpointer() as checkpointer:
      saved = checkpointer.metadata(state).item_metadata.tree
      # In NumPy, for the devices that saved it may not be here.
      like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
      tree = checkpointer.restore(state, like)
    return flat(tree)

  def position_in_data(self, step):
    path = self.workdir / 'checkpoints' / str(step) / 'data' / 'metadata'
    return json.loads(path.read_text())


def assert_same_history(ours, theirs):
  """Of runs on different meshes: counts exactly, sums of |w| by rounding."""
  ours, theirs = (Run(d).lines('mask_history.jsonl') for d in (ours, theirs))
  masses = [[row.pop('mass', {}) for row in rows] for rows in (ours, theirs)]
  assert ours == theirs
  for a, b in zip(*masses, strict=True):
    assert a.keys() == b.keys()
    for name, sums in a.items():
      np.testing.assert_allclose(sums, b[name], rtol=1e-4, err_msg=name)


def flat(tree, prefix=''):
  if isinstance(tree, dict):
    items = tree.items()
  elif isinstance(tree, list):
    items = enumerate(tree)
  else:
    return {} if tree is None else {prefix: np.asarray(tree)}
  return {
    k: v for key, x in items for k, v in flat(x, f'{prefix}/{key}').items()
  }


def without_timings(scalars):
  return {k: v for k, v in scalars.items() if k not in TIMINGS}


def assert_same_run(workdir, reference):
  """Weights, moments, masks, data, history, metrics and losses, to the bit."""
  run, expected = Run(workdir), Run(reference)
  assert run.saved == expected.saved
  for step in run.saved:
    arrays, wanted = run.checkpoint(step), expected.checkpoint(step)
    assert arrays.keys() == wanted.keys()
    for name, array in arrays.items():
      assert array.dtype == wanted[name].dtype, name
      assert array.tobytes() == wanted[name].tobytes(), name
    assert run.position_in_data(step) == expected.position_in_data(step)
  history = 'mask_history.jsonl'
  assert (run.workdir / history).read_bytes() == (
    expected.workdir / history
  ).read_bytes()
  assert run.metrics == expected.metrics
  assert run.summary == expected.summary
