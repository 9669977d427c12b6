"""What runs say, read from their files alone. Never imports jax."""

import importlib

# Public name -> its module, from here, imported when the name is first used.
_MODULES = {
  'Average': 'averages',
  'Bootstrap': 'fitting.bootstrap',
  'Comparison': 'comparison.results',
  'Plan': '.planning',  # For `planned_average`, with `plan`.
  'RunPlans': 'plans.results',
  'Contrast': 'contrasts.contrast',
  'Noise': 'contrasts.noise',
  'Ranking': 'contrasts.ranking',
  'Runs': 'runs_table',
  'ScalingLaw': 'fitting.law',
  'ScalingLawFit': 'fitting.fit',
  'average_parameters': 'averages',
  'compare_laws': 'comparison.compare',
  'contrast_runs': 'contrasts.contrast',
  'fit_scaling_law': 'fitting.fit',
  'load_runs': 'loading',
  'plan': '.planning',
  'plan_run': 'plans.plan',
  'planned_average': 'averages',
  'plot_coefficients': 'plots.coefficients',
  'plot_contrasts': 'plots.contrasts',
  'plot_density': 'plots.density',
  'plot_isoflops': 'plots.isoflops',
  'plot_law': 'plots.law',
  'plot_predicted': 'plots.predicted',
  'plot_schedules': 'plots.schedules',
  'rank_schedules': 'contrasts.ranking',
  'replicate_noise': 'contrasts.noise',
  'report_html': 'report',
  'simulate_runs': 'fitting.simulate',
  'write_runs': 'runs_table',
}
__all__ = list(_MODULES)


def __getattr__(name: str):
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'.{_MODULES[name]}', __name__), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *_MODULES})
