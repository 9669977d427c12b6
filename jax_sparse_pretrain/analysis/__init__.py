"""What runs say, read from their files alone. Never imports jax."""

import importlib

# Public name -> its module, from here, imported when the name is first used.
_MODULES = {
  'Average': 'averages',
  'Bootstrap': 'fitting.bootstrap',
  'Comparison': 'comparison.results',
  'Plan': '.planning',  # For `planned_average`, with `plan`.
  'RunPlans': 'next_runs',
  'Contrast': 'contrasts',
  'EFFECTIVE': 'effective',
  'Effective': 'effective',
  'Noise': 'ranking',
  'Ranking': 'ranking',
  'Runs': 'runs_table',
  'ScalingLaw': 'fitting.law',
  'ScalingLawFit': 'fitting.fit',
  'average_parameters': 'averages',
  'compare_laws': 'comparison.compare',
  'contrast_runs': 'contrasts',
  'fit_runs': 'fitting.fit',
  'fit_scaling_law': 'fitting.fit',
  'load_runs': 'loading',
  'plan': '.planning',
  'plan_run': 'next_runs',
  'planned_average': 'averages',
  'plot_coefficients': 'plots.coefficient_picture',
  'plot_contrasts': 'plots.experiment_pictures',
  'plot_density': 'plots.experiment_pictures',
  'plot_isoflops': 'plots.law_picture',
  'plot_law': 'plots.law_picture',
  'plot_predicted': 'plots.law_picture',
  'plot_schedules': 'plots.experiment_pictures',
  'rank_schedules': 'ranking',
  'replicate_noise': 'ranking',
  'report_html': 'report',
  'simulate_runs': 'fitting.law',
  'write_runs': 'runs_table',
}
__all__ = list(_MODULES)


def __getattr__(name: str):
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'.{_MODULES[name]}', __name__), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_MODULES})
