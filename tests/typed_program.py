"""What users write, for the type checker alone: no public name is Any."""

from typing import Any, assert_type

import numpy as np

from jax_sparse_pretrain import (
  Average,
  Comparison,
  Config,
  Plan,
  PruningSchedule,
  Runs,
  ScalingLaw,
  ScalingLawFit,
  analysis,
  average_parameters,
  compare_laws,
  fit_scaling_law,
  load_config,
  load_runs,
  plan,
  plan_run,
  planned_average,
  train_model,
)


def train() -> None:
  config = load_config('smoke', {'pruning.sparsity': 0.6})
  assert_type(config, Config)
  assert_type(config.pruning.sparsity, float)
  assert_type(train_model(config, '/tmp/smoke'), dict[str, Any])
  average = average_parameters('/tmp/smoke')
  assert_type(average, Average)
  assert_type(average.average_parameters, float)


def decide_when_to_prune() -> None:
  found = plan(
    dense_steps=10_000,
    shape='geometric',
    sparsity=0.8,
    start=0.25,
    end=0.75,
    unit='compute_fraction',
    every=25,
  )
  assert_type(found, Plan)
  assert_type(found.schedule, PruningSchedule)
  assert_type(found.schedule.update_steps, np.ndarray)
  assert_type(planned_average(1_139_277_824, found), Average)


def fit_a_law() -> None:
  runs = load_runs('runs.csv', columns={'tokens': 'steps * 65536'})
  assert_type(runs, Runs)
  fit = fit_scaling_law(runs.average_parameters, runs.tokens, runs.loss)
  assert_type(fit, ScalingLawFit)
  assert_type(fit.law, ScalingLaw)
  assert_type(fit.law.alpha, float)
  assert_type(fit.intervals(0.95), dict[str, tuple[float, float]])
  assert_type(compare_laws(runs), Comparison)
  assert_type(plan_run(fit, compute=1e20), analysis.RunPlans)
