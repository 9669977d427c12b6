import json
import math
import pathlib

import jax
import pytest
import tiny

from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.pruning import Kernel, targets
from jax_sparse_pretrain.pruning.distribution import erdos_renyi
from jax_sparse_pretrain.training import recipe, setup

GOLDEN = json.loads(
  (pathlib.Path(__file__).parent / 'golden' / 'jaxpruner.json').read_text()
)
KERNELS = {
  'layers/up/kernel': Kernel((3, 8, 32), stacked=True),
  'layers/down/kernel': Kernel((3, 32, 8), stacked=True),
  'lm_head/kernel': Kernel((8, 100), stacked=False),
}
SIZES = {name: math.prod(k.shape) for name, k in KERNELS.items()}


@pytest.mark.parametrize('sparsity', GOLDEN['distributions'])
@pytest.mark.parametrize('distribution', ['uniform', 'erk'])
def test_distributions_are_those_of_jaxpruner(distribution, sparsity):
  kernels = {
    name: Kernel(tuple(shape), stacked=False)
    for name, shape in GOLDEN['shapes'].items()
    if len(shape) > 1  # jaxpruner leaves vectors alone
  }
  ours = targets(kernels, float(sparsity), distribution)
  theirs = GOLDEN['distributions'][sparsity][distribution]
  assert ours == pytest.approx({n: theirs[n] for n in kernels}, rel=1e-12)


@pytest.mark.parametrize('sparsity', [0.3, 0.5, 0.9])
def test_erk_meets_the_sparsity_in_all(sparsity):
  ours = erdos_renyi(KERNELS, sparsity)
  zeros = sum(ours[n] * size for n, size in SIZES.items())
  # Zeros are whole in each kernel.
  assert zeros == pytest.approx(sparsity * sum(SIZES.values()), abs=3)


def test_erk_goes_by_the_dimensions_of_one_layer():
  ours = erdos_renyi(KERNELS, 0.9)
  ratio = (1 - ours['layers/up/kernel']) / (1 - ours['lm_head/kernel'])
  assert ratio == pytest.approx((40 / 256) / (108 / 800), rel=1e-9)


def test_what_erk_would_make_too_dense_stays_dense():
  kernels = {**KERNELS, 'small/kernel': Kernel((2, 2), stacked=False)}
  ours = erdos_renyi(kernels, 0.5)
  assert ours['small/kernel'] == 0
  assert all(0 < ours[name] < 1 for name in KERNELS)


def test_exempt_kernels_are_left_out():
  ours = targets(KERNELS, 0.8, 'global', exempt=['lm_head/*'])
  assert ours == {'layers/up/kernel': 0.8, 'layers/down/kernel': 0.8}


def test_patterns_set_the_sparsity_of_what_they_match():
  ours = targets(KERNELS, 0.8, 'uniform', sparsities=[('*/up/*', 0.5)])
  assert ours == {
    'layers/up/kernel': 0.5,
    'layers/down/kernel': 0.8,
    'lm_head/kernel': 0.8,
  }


@pytest.mark.parametrize(
  'change, words',
  [
    (
      {'exempt': ('nothing/*',)},
      "exempt: 'nothing/.' matches no kernel; there",
    ),
    ({'exempt': ('*',)}, 'must leave kernels to prune'),
    ({'sparsities': (('x*', 0.5),)}, "sparsities: 'x.' matches no kernel"),
    ({'sparsities': (('lm_head/*', 1.0),)}, r'must be in \[0, 1\)'),
    (
      {'sparsities': (('lm*', 0.5), ('*head/*', 0.6))},
      'contradicts another at lm_head/kernel',
    ),
    (
      {'exempt': ('lm_head/*',), 'sparsities': (('lm*', 0.5),)},
      'contradicts another at lm_head/kernel',
    ),
    (
      {'distribution': 'global', 'sparsities': (('lm*', 0.5),)},
      "must be empty for distribution 'global'",
    ),
    ({'distribution': 'erk', 'sparsity': 1e-6}, "cannot be reached by .*'erk'"),
  ],
)
def test_patterns_and_distributions_that_cannot_be_are_refused(change, words):
  config = tiny.tiny_config(pruning={'distribution': 'uniform', **change})
  with pytest.raises(ConfigError, match='pruning.*' + words):
    recipe.make_plan(config)


@pytest.mark.fast(1)
@pytest.mark.parametrize(
  'change',
  [
    {'exempt': ('lm_head/*',)},
    {'distribution': 'erk'},
    {'distribution': 'uniform', 'sparsities': (('lm_head/*', 0.25),)},
    {'distribution': 'erk', 'exempt': ('layers/mlp/down/*',)},
    {'schedule': 'linear'},
    {'schedule': 'polynomial', 'power': 2.0},
  ],
)
def test_a_run_has_the_counts_of_its_plan(change):
  config = tiny.tiny_config(pruning=change)
  experiment = setup.set_up(config, jax.devices()[:1])
  state, schedule = experiment.init(), experiment.plan.schedule
  linear = experiment.header.linear_parameters
  rows = experiment.to_devices(next(experiment.batches))
  for step in schedule.update_steps.tolist():
    state, _ = experiment.programs.train_step(
      state, rows, experiment.controls(step)
    )
    counted = experiment.programs.count_nonzero(state)
    assert counted.keys() == experiment.header.layers.keys()
    nonzero = sum(int(sum(n)) for n in counted.values())
    # Each layer's count is rounded on its own.
    assert nonzero == pytest.approx(linear * schedule.density(step), abs=12)
  final = recipe.make_targets(config)
  for name, size in experiment.header.layers.items():
    n = sum(int(x) for x in counted[name])
    if config.pruning.distribution == 'global':
      assert name in final or n == size
    else:
      assert n == pytest.approx(size * (1 - final.get(name, 0)), abs=2)
  experiment.batches.close()
