"""Runs drawn from a known law, to try a fit or a design of runs on."""

import numpy as np

from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw


def simulate_runs(
  law: ScalingLaw, parameters, tokens, *, noise: float, seed: int
) -> np.ndarray:
  """Losses of runs: the law times log-normal noise.

  Args:
    law: the truth.
    parameters: of each run; broadcasts with tokens.
    tokens: of each run.
    noise: standard deviation of log loss; 0 for the law itself.
    seed: of the noise.

  Returns:
    Losses in nats, of the shape of the runs.

  Raises:
    ValueError: for noise that is negative or not finite, and for sizes that
      are not positive.
  """
  if not (np.isfinite(noise) and noise >= 0):
    raise ValueError(f'noise {noise}: must be finite and at least 0')
  exact = np.asarray(law.loss(parameters, tokens))
  errors = np.random.default_rng(seed).normal(0.0, noise, exact.shape)
  return exact * np.exp(errors)
