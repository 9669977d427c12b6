"""Pictures of runs and laws: values in, a matplotlib Figure out.

The modules `*_picture` draw; all take their colours, figures and axes from
`style`. They fit nothing, and read nothing but the files of the run that
`training_picture` draws. Only this room imports matplotlib; it never
imports pyplot, so it needs no display and leaves the user's backend alone.
"""

import contextlib
import importlib
import os
import sys

# Public name -> its module, imported when the name is first used.
_MODULES = {
  'plot_coefficients': 'coefficient_picture',
  'plot_contrasts': 'experiment_pictures',
  'plot_density': 'density_picture',
  'plot_isoflops': 'isoflop_picture',
  'plot_law': 'law_picture',
  'plot_predicted': 'law_picture',
  'plot_schedules': 'experiment_pictures',
  'plot_training': 'training_picture',
  'save_training_picture': 'training_picture',
}
__all__ = list(_MODULES)


def __getattr__(name: str):
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'.{_MODULES[name]}', __name__), name)


def _import_matplotlib() -> None:
  """Imports it whatever MPLBACKEND says.

  matplotlib cannot be imported under a backend that it does not know, and a
  picture must not fail the run that it shows.
  """
  backend = os.environ.pop('MPLBACKEND', None)
  import matplotlib

  if backend is not None:
    os.environ['MPLBACKEND'] = backend
    with contextlib.suppress(ValueError):
      matplotlib.rcParams['backend'] = backend


if 'matplotlib' not in sys.modules:
  _import_matplotlib()
