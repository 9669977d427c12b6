"""The verbs of `python -m jax_sparse_pretrain.analysis`.

A verb is a function here, marked by `command.verb`, that returns an `Answer`.
`analysis.command` makes its flags from its signature. A verb reads runs, calls
a public function of the analysis, and writes its tables; it computes nothing.
At import these modules load neither SciPy nor matplotlib.
"""

import importlib
from collections.abc import Callable, Mapping

# Verb -> where its function is, or the functions of its pictures.
VERBS = {
  'average': 'average_runs.average',
  'compare': 'compare_runs.compare',
  'contrast': 'compare_runs.contrast',
  'fit': 'fit_and_predict.fit',
  'plan': 'plan_and_simulate.plan',
  'plot': 'draw.PICTURES',
  'predict': 'fit_and_predict.predict',
  'rank': 'compare_runs.rank',
  'report': 'write_report.report',
  'simulate': 'plan_and_simulate.simulate',
}


def load(name: str) -> Callable | Mapping[str, Callable]:
  """Imports the function of a verb, or those of `plot`."""
  module, _, function = VERBS[name].partition('.')
  return getattr(importlib.import_module(f'.{module}', __name__), function)
