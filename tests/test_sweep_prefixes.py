"""Which first steps runs share, against slow and simple answers."""

import dataclasses
import itertools
import random

import jax
import numpy as np
import pytest
from tiny import VALUES, tiny_config

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import schema
from jax_sparse_pretrain.sweep import prefixes
from jax_sparse_pretrain.sweep.sweep_file import Run
from jax_sparse_pretrain.training import jitted, optimizer, recipe, setup

WSD = {'schedule': 'warmup_stable_decay', 'warmup_steps': 5}


def make_run(name='run', **changes):
  config = tiny_config(**changes)
  return Run(name, config, recipe.make_plan(config))


def common(a, b):
  return prefixes.common_steps([a, b])[1, 0]


def steps_of(run):
  """What every step does, one after another."""
  config, plan = run.config, run.plan
  controls = recipe.make_controls(
    config,
    plan,
    recipe.make_pruner(config, plan),
    optimizer.learning_rates(config.optimizer, plan.steps),
  )
  for step in range(plan.steps):
    now = controls(step)
    budget = jax.tree.leaves(now.budget) if now.prune else []
    yield (
      np.float32(now.learning_rate).tobytes(),
      bool(now.prune),
      tuple(np.asarray(leaf).tobytes() for leaf in budget),
      step + 1 in config.pruning.snapshots,
    )


def oracle(a, b):
  """Of the steps of runs of one program, data and seed: not the last."""
  n = 0
  for ours, theirs in list(zip(a, b, strict=False))[:-1]:
    if ours != theirs:
      break
    n += 1
  return n


def some_runs():
  optimizers = [
    WSD,
    {**WSD, 'decay_fraction': 0.5},
    {**WSD, 'warmup_steps': 0},
    {'schedule': 'constant', 'warmup_steps': 3},
    {'schedule': 'cosine'},
  ]
  prunings = [
    {'sparsity': 0.8},
    {'sparsity': 0.6, 'unit': 'steps', 'start': 9, 'end': 18},
    {'sparsity': 0.8, 'unit': 'steps', 'start': 9, 'end': 18},
    {'sparsity': 0.8, 'unit': 'steps', 'start': 9, 'end': 18, 'every': 9},
    {'sparsity': 0.8, 'schedule': 'cubic', 'unit': 'steps', 'start': 15,
     'end': 21},
    {'sparsity': 0.6, 'unit': 'steps', 'start': 9, 'end': 18,
     'snapshots': (7,)},
  ]  # fmt: skip
  for steps, opt, pruning in itertools.product((30, 41), optimizers, prunings):
    yield make_run(duration={'value': steps}, optimizer=opt, pruning=pruning)


def test_common_steps_are_those_of_a_comparison_step_by_step():
  runs = random.Random(0).sample(list(some_runs()), 24)
  steps = [list(steps_of(run)) for run in runs]
  expected = np.zeros((24, 24), int)
  for j, i in itertools.combinations(range(24), 2):
    expected[i, j] = oracle(steps[i], steps[j])
  np.testing.assert_array_equal(prefixes.common_steps(runs), expected)
  backwards = prefixes.common_steps(runs[::-1])[::-1, ::-1]
  np.testing.assert_array_equal(backwards, expected.T)
  seen = set(expected[np.tril_indices(24, -1)])
  assert len(seen) > 5 and max(seen) > 20  # Or nothing was shown.


def test_runs_of_no_common_step_and_of_all_but_the_last():
  a = make_run(optimizer=WSD)
  assert common(a, a) == a.plan.steps - 1
  b = make_run(optimizer={**WSD, 'peak_lr': 3.1e-3})
  assert common(a, b) == 0


def test_warmup_in_steps_makes_a_prefix_that_no_length_changes():
  short, long = (
    optimizer.learning_rates(config_lib.Optimizer(**WSD), n) for n in (50, 700)
  )
  assert short[:40].tobytes() == long[:40].tobytes()
  assert short[39] > short[40]
  np.testing.assert_allclose(short[:5], 1e-3 * np.arange(1, 6) / 5, rtol=1e-6)
  fraction = config_lib.Optimizer(schedule='cosine', warmup_fraction=0.1)
  steps = dataclasses.replace(fraction, warmup_fraction=0.5, warmup_steps=7)
  np.testing.assert_array_equal(
    optimizer.learning_rates(fraction, 70), optimizer.learning_rates(steps, 70)
  )


@pytest.mark.parametrize(
  'change, most',
  [({'warmup_steps': 31}, 30), ({**WSD, 'warmup_steps': 25}, 24)],
)
def test_warmup_must_fit_into_the_run(change, most):
  with pytest.raises(
    config_lib.ConfigError, match=f'warmup_steps = .*: must be at most {most}'
  ):
    make_run(optimizer=change, pruning={'sparsity': 0.0})


# Other values for every key of the config, as far as none serves by its type.
OTHER = {
  'model.n_heads': 2,
  'model.compute_dtype': 'bfloat16',
  'model.attention': 'xla',
  'model.rope_scaling': 'llama3',
  'data.source': 'text',
  'data.tokenizer': 'sentencepiece',
  'data.mixture': None,  # only of prepared tokens
  'data.errors': 'skip',
  'evaluation.sets': (('other', 'directory'),),
  'duration.unit': 'dense_steps',
  'optimizer.schedule': 'linear',
  'pruning.sparsity': 0.7,
  'pruning.library': None,  # below
  'pruning.algorithm': 'random',
  'pruning.options': None,  # only of jaxpruner
  'pruning.schedule': 'cubic',
  'pruning.distribution': 'uniform',
  'pruning.exempt': ('lm_head/*',),
  'pruning.sparsities': None,  # only if uniform
  'pruning.unit': 'step_fraction',
  'pruning.structure': 'block',
  'pruning.order': 'after',
  'pruning.snapshots': (3,),
  'mesh.data': 8,
}
MAY_DIFFER = {
  'duration.value', 'duration.unit', 'optimizer.peak_lr',
  'optimizer.schedule', 'optimizer.warmup_fraction', 'optimizer.warmup_steps',
  'optimizer.decay_fraction', 'optimizer.final_lr_fraction',
  'pruning.sparsity', 'pruning.schedule', 'pruning.power', 'pruning.start',
  'pruning.end', 'pruning.unit', 'pruning.every', 'pruning.snapshots',
  'checkpoint.every', 'checkpoint.keep', 'checkpoint.keep_every',
  'data.prefetch', 'data.data_dir',
  'logging.tensorboard', 'logging.wandb_project',
}  # fmt: skip


def other(name, value):
  if name in OTHER:
    return OTHER[name]
  if isinstance(value, bool):
    return not value
  if isinstance(value, str):
    return 'other'
  return value / 2 if isinstance(value, float) and value else value + 1


def altered(config, name):
  values = dataclasses.asdict(config)
  *sections, last = name.split('.')
  node = values
  for section in sections:
    node = node[section]
  node[last] = other(name, node[last])
  # Not from_dict: what matters here is the key alone.
  return schema.build(config_lib.Config, values)


@pytest.mark.parametrize(
  'name', dict(schema.leaves(dataclasses.asdict(tiny_config())))
)
def test_runs_share_steps_only_if_all_but_their_controls_are_equal(name):
  if OTHER.get(name, name) is None:
    return
  ours = tiny_config()
  theirs = altered(ours, name)
  assert ours != theirs
  is_same = jitted.prefix_key(ours) == jitted.prefix_key(theirs)
  assert is_same == (name in MAY_DIFFER)


@pytest.mark.parametrize('name', [
  name for name, _ in schema.leaves(dataclasses.asdict(tiny_config()))
  if name.startswith('pruning.') and OTHER.get(name, name) is not None
])  # fmt: skip
def test_dense_runs_are_alike_whatever_their_pruning_would_be(name):
  ours = tiny_config(pruning={'sparsity': 0.0})
  is_same = jitted.prefix_key(ours) == jitted.prefix_key(altered(ours, name))
  assert is_same == (name != 'pruning.sparsity')


def test_jaxpruner_shares_no_step_and_few_programs():
  def of(**changes):
    upstream = {
      'library': 'jaxpruner',
      'algorithm': 'global_magnitude',
      'every': 3,
    }
    return tiny_config(**{'pruning': upstream, **changes})

  assert jitted.prefix_key(of()) is None
  assert jitted.program_key(of()) == jitted.program_key(
    of(checkpoint={'every': 3})
  )
  longer = of(duration={'value': 31})  # and so is its ramp
  assert jitted.program_key(of()) != jitted.program_key(longer)
  assert jitted.program_key(of()) != jitted.program_key(of(seed=1))


def lowered(config):
  experiment = setup.set_up(config, jax.devices()[:1])
  experiment.batches.close()
  rows = jax.ShapeDtypeStruct((8, 33), np.int32)
  step = experiment.programs.train_step.lower(
    experiment.programs.abstract_state, rows, experiment.controls(0)
  )
  return step.as_text()


@pytest.mark.fast(2)
@pytest.mark.parametrize('pruning', [
  {'sparsity': 0.0}, {'sparsity': 0.8}, {'sparsity': 0.8, 'order': 'after'},
  {'sparsity': 0.8, 'distribution': 'uniform', 'pack_masks': True},
])  # fmt: skip
def test_runs_of_one_key_have_one_program(pruning):
  """What is left out of the key is not in the program, by its text."""
  ours = tiny_config(pruning=pruning)
  more = {
    'schedule': 'linear', 'unit': 'steps', 'start': 4, 'end': 12, 'every': 4,
    'snapshots': (5,) if pruning['sparsity'] else (), 'power': 2.0,
  }  # fmt: skip
  theirs = tiny_config(
    seed=7,
    duration={'value': 77, 'unit': 'dense_steps'},
    optimizer={**WSD, 'peak_lr': 0.1, 'decay_fraction': 0.3},
    pruning={**pruning, 'sparsity': pruning['sparsity'] / 2, **more},
    data={**VALUES['data'], 'prefetch': 1, 'validation_fraction': 0.1},
    evaluation={'rows': 8, 'every': 7},
    logging={'every': 7},
  )
  assert jitted.program_key(ours) == jitted.program_key(theirs)
  assert lowered(ours) == lowered(theirs)


def test_random_scores_have_their_seed_in_the_program():
  ours, theirs = (
    tiny_config(seed=seed, pruning={'algorithm': 'random'}) for seed in (0, 1)
  )
  assert jitted.program_key(ours) != jitted.program_key(theirs)
  assert lowered(ours) != lowered(theirs)


def test_programs_are_shared_and_seeds_are_not():
  cache = {}
  one, two, sparse = (
    setup.set_up(tiny_config(seed=seed, pruning={'sparsity': s}), cache=cache)
    for seed, s in ((1, 0.0), (2, 0.0), (2, 0.5))
  )
  for each in (one, two, sparse):
    each.batches.close()
  first, second, third = (each.programs for each in (one, two, sparse))
  assert first is second is not third
  assert len(cache) == 2
  alone = setup.set_up(tiny_config(seed=2, pruning={'sparsity': 0.0}))
  alone.batches.close()
  jax.tree.map(
    np.testing.assert_array_equal, two.init().params, alone.init().params
  )
  with pytest.raises(AssertionError):
    jax.tree.map(
      np.testing.assert_array_equal, one.init().params, alone.init().params
    )


def words(n, seed):
  """Recipes as words, none the beginning of another, and their table."""
  draw = random.Random(seed)
  found = []
  for i in range(n):
    steps = draw.choices('ab', weights=(3, 1), k=draw.randint(1, 12))
    found.append(''.join(steps) + str(i))
  table = np.zeros((n, n), int)
  for i, j in itertools.product(range(n), repeat=2):
    pairs = zip(found[i], found[j], strict=False)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
    table[i, j] = len(list(same))
  return found, np.tril(table, -1)


@pytest.mark.parametrize('seed', range(20))
def test_every_distinct_step_is_trained_once(seed):
  found, table = words(14, seed)
  forks = prefixes.find_forks(table, [len(word) for word in found])
  own = sum(
    len(word) - (fork.step if fork else 0)
    for word, fork in zip(found, forks, strict=True)
  )
  assert own == len({w[:n] for w in found for n in range(1, len(w) + 1)})
  for fork in filter(None, forks):
    above = forks[fork.parent]
    # The parent makes the step at which it is left itself.
    assert above is None or above.step < fork.step


@pytest.mark.parametrize('seed', range(20))
def test_in_tree_order_the_run_before_has_as_much_in_common_as_any(seed):
  found, table = words(14, seed)
  forks = prefixes.find_forks(table, [len(word) for word in found])
  order = prefixes.in_tree_order(forks)
  assert sorted(order) == list(range(14))
  both = table + table.T
  for n, i in enumerate(order[1:], start=1):
    assert both[i, order[n - 1]] == max(both[i, j] for j in order[:n])
    fork = forks[i]
    assert fork is None or order.index(fork.parent) < n


def test_a_fork_must_be_worth_its_checkpoint():
  table = np.tril(np.full((3, 3), 9), -1)
  forks = prefixes.find_forks(table, [900, 901, 900])
  assert forks == [None, None, prefixes.Fork(0, 9)]


@pytest.mark.parametrize('seed', range(10))
@pytest.mark.parametrize('n', [1, 2, 3, 7, 9])
def test_shares_are_the_best_stretches(seed, n):
  found, table = words(7, seed)
  order = prefixes.in_tree_order(
    prefixes.find_forks(table, list(map(len, found)))
  )
  alone = [len(found[i]) for i in order]
  both = table + table.T
  shared = [0, *(both[i, j] for i, j in itertools.pairwise(order))]
  after = [cost - n for cost, n in zip(alone, shared, strict=True)]

  def largest(bounds):
    pairs = itertools.pairwise([0, *bounds, 7])
    return max(alone[a] + sum(after[a + 1 : b]) for a, b in pairs if a < b)

  cuts = itertools.combinations_with_replacement(range(8), n - 1)
  best = min(map(largest, cuts))
  found = prefixes.share_out(alone, after, n)
  assert len(found) == n
  assert [i for each in found for i in each] == list(range(7))
  costs = [alone[r[0]] + sum(after[i] for i in r[1:]) for r in found if r]
  assert max(costs) == best


def test_shares_of_a_sweep_are_disjoint_and_complete_and_balanced():
  runs = [
    make_run(f'{i}', optimizer=WSD, duration={'value': 30 + i}, seed=i % 3)
    for i in range(12)
  ]
  table = prefixes.common_steps(runs)
  for count in (1, 2, 3, 5, 20):
    found = prefixes.shares(runs, table, count)
    assert sorted(i for share in found for i in share) == list(range(12))
    assert all(share == sorted(share) for share in found)
  # Three trees of four runs each: nothing is trained twice in three shares.
  found = prefixes.shares(runs, table, 3)
  assert sorted(found) == [[i, i + 3, i + 6, i + 9] for i in range(3)]


def test_trunks_are_counted_while_they_wait():
  fork = prefixes.Fork
  chain = [None, fork(0, 5), fork(1, 6), fork(2, 7)]
  assert prefixes.most_trunks(chain) == 1
  fan = [None, fork(0, 5), fork(0, 6), fork(0, 5), fork(2, 8)]
  assert prefixes.most_trunks(fan) == 2
  assert prefixes.most_trunks([None, None]) == 0
  assert prefixes.descendants(fan, 0) == [1, 2, 3, 4]
  assert prefixes.descendants(fan, 2) == [4]
