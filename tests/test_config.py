import ast
import dataclasses
import pathlib
import re

import numpy as np
import pytest

from jax_sparse_pretrain import config, schema, train
from jax_sparse_pretrain.command_line import load_config
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.training import recipe

CONFIGS = sorted(
  (pathlib.Path(__file__).parents[1] / 'configs').glob('*.py'),
  key=lambda path: path.name,
)
SMOKE = str(next(path for path in CONFIGS if path.stem == 'smoke'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid_and_can_be_planned(path):
  assert recipe.make_plan(load_config(str(path), [])).steps > 0


# Section 2 of the paper's released code: linear and all parameters.
PAPER = {
  'c4_58m': (41_549_824, 57_940_480),
  'c4_162m': (137_822_208, 162_417_408),
  'c4_468m': (435_421_184, 468_239_360),
  'c4_1b': (1_139_277_824, 1_204_881_408),
}


@pytest.mark.parametrize('name', PAPER)
def test_the_papers_sizes_have_the_papers_parameter_counts(name):
  path = next(path for path in CONFIGS if path.stem == name)
  model = load_config(str(path), []).model
  ours = counts.linear_parameters(model), counts.total_parameters(model)
  assert ours == PAPER[name]


# arXiv 2501.12486: section 2 and appendix, as in the authors' released configs.
# Section.key -> value; what the paper does not give is not here.
RECIPE = {
  'model.vocab_size': 32_000,
  'model.context_length': 2048,
  'model.rope_base': 10_000.0,
  'model.norm_eps': 1e-5,
  'model.compute_dtype': 'bfloat16',
  'duration.unit': 'dense_steps',
  'optimizer.schedule': 'cosine',
  'optimizer.warmup_fraction': 0.01,
  'optimizer.warmup_steps': 0,
  'optimizer.final_lr_fraction': 0.1,
  'optimizer.b1': 0.9,
  'optimizer.b2': 0.95,
  'optimizer.eps': 1e-8,
  'optimizer.weight_decay': 0.1,
  'optimizer.clip_norm': 1.0,
  'pruning.algorithm': 'magnitude',
  'pruning.schedule': 'geometric',
  'pruning.distribution': 'global',
  'pruning.structure': 'unstructured',
  'pruning.exempt': (),
  'pruning.start': 0.25,
  'pruning.end': 0.75,
  'pruning.unit': 'compute_fraction',
  'pruning.every': 50,
  'pruning.order': 'before',
  'pruning.regrow': False,
  'data.source': 'tokens',
  'data.mask_documents': False,
  'data.validation_split': 'validation',
}


def test_the_defaults_are_the_papers_recipe():
  defaults = dict(schema.leaves(config.defaults()))
  assert {name: defaults[name] for name in RECIPE} == RECIPE


@pytest.mark.parametrize('name', PAPER)
def test_the_papers_configs_keep_the_recipe(name):
  ours = dict(schema.leaves(dataclasses.asdict(load_config(name))))
  assert {key: ours[key] for key in RECIPE} == RECIPE


def test_the_papers_learning_rates():
  assert load_config('c4_58m').optimizer.peak_lr == 6.4e-3
  assert load_config('c4_1b').optimizer.peak_lr == 7.753e-4


def test_defaults_round_trip():
  values = config.defaults()
  assert dataclasses.asdict(config.from_dict(values)) == values


def test_a_shipped_config_may_be_called_by_its_name(tmp_path, monkeypatch):
  assert load_config('smoke') == load_config(SMOKE)
  assert load_config('smoke.py') == load_config(pathlib.Path(SMOKE))
  monkeypatch.chdir(tmp_path)
  assert load_config('smoke') == load_config(SMOKE)
  # A file of that name comes first.
  (tmp_path / 'smoke').write_text(
    'from ml_collections import ConfigDict\n'
    "def get_config(seed='3'): return ConfigDict({'seed': int(seed)})"
  )
  assert load_config('smoke').seed == 3
  assert load_config('smoke:7').seed == 7


def test_an_unknown_name_is_answered_with_those_there_are():
  with pytest.raises(config.ConfigError, match='be a file, or .*, smoke,'):
    load_config('smke')


def test_overrides_may_be_a_mapping():
  words = ['--config.pruning.sparsity=0.5', '--config.seed=3']
  changes = {'pruning.sparsity': np.float32(0.5), 'seed': 3}
  assert load_config(SMOKE, changes) == load_config(SMOKE, words)
  with pytest.raises(config.ConfigError, match='did you mean pruning.sparsity'):
    load_config(SMOKE, {'pruning.sparsty': 0.5})
  with pytest.raises(config.ConfigError, match='seed is no section'):
    load_config(SMOKE, {'seed.sparsity': 0.5})


def test_overrides_reach_the_config():
  loaded = load_config(
    SMOKE,
    [
      '--config.optimizer.peak_lr=3e-4',
      '--config.model.remat=true',
      '--config.model.n_layers=3',
      '--config.pruning.schedule=cubic',
    ],
  )
  assert loaded.optimizer.peak_lr == 3e-4
  assert loaded.model.remat is True
  assert loaded.model.n_layers == 3
  assert loaded.pruning.schedule == 'cubic'


@pytest.mark.parametrize(
  'override, words',
  [
    ('model.n_layer=3', r'n_layer.*Did you mean "n_layers"'),
    ('model.n_layers=many', 'n_layers'),
    ('model.n_layers=2.5', 'n_layers'),
    ('model.n_layers=0', 'model.n_layers = 0: must be at least 1'),
    ('model.d_model=130', r'd_model = 130.*divisible by .*n_heads = 4'),
    ('model.d_model=12', 'head dimension must be even'),
    ('model.compute_dtype=float8', r"compute_dtype = 'float8'.*'bfloat16'"),
    ('optimizer.peak_lr=-1', 'peak_lr = -1.0: must be greater than 0'),
    ('optimizer.peak_lr=nan', 'peak_lr = nan: must be finite'),
    ('optimizer.schedule=square', r"schedule = 'square'.*'cosine'"),
    ('pruning.sparsity=1', r'sparsity = 1.0: must be in \[0, 1\)'),
    ('pruning.sparsity=-0.1', r'sparsity = -0.1: must be in \[0, 1\)'),
    ('pruning.start=0.9', r'start = 0.9: must be at most .*end = 0.75'),
    ('pruning.end=1.5', 'end = 1.5: must be below 1'),
    ('pruning.every=0', 'every = 0: must be at least 1'),
    ('data.piece_bytes=-1', 'piece_bytes = -1: must be at least 0'),
    ('accumulation_steps=3', 'batch_size = 32: must be divisible by'),
    ('data.streams=3', 'streams'),
    ('data.source=text', "path = '': must be set"),
    ('data.tokenizer=auto', "tokenizer = 'auto': must name a tokenizer"),
    ("data.mixture=(('a', 1.0),)", 'mixture: needs data.source'),
    ('mesh.fsdp=-1', 'at most one'),
    ('mesh.fsdp=0', 'fsdp = 0: must be at least 1'),
    ('nonsense=1', 'nonsense'),
  ],
)
def test_a_bad_value_is_refused_by_key(override, words):
  with pytest.raises(config.ConfigError, match=words) as error:
    load_config(SMOKE, [f'--config.{override}'])
  assert '\n' not in str(error.value)


def test_prepared_data_is_not_cut_into_pieces():
  with pytest.raises(config.ConfigError, match='piece_bytes = 9: must be 0'):
    config.from_dict({'data': {'piece_bytes': 9}})


def test_warmup_and_decay_must_fit_into_the_run():
  with pytest.raises(config.ConfigError, match='decay_fraction = 0.6'):
    load_config(
      SMOKE,
      [
        '--config.optimizer.schedule=warmup_stable_decay',
        '--config.optimizer.warmup_fraction=0.5',
        '--config.optimizer.decay_fraction=0.6',
      ],
    )


def test_a_schedule_that_does_not_fit_the_run_is_refused():
  loaded = load_config(
    SMOKE,
    [
      '--config.pruning.unit=steps',
      '--config.pruning.start=10',
      '--config.pruning.end=500',
      '--config.duration.unit=steps',
      '--config.duration.value=500',
    ],
  )
  with pytest.raises(config.ConfigError, match='pruning.*step 500'):
    recipe.make_plan(loaded)


@pytest.mark.parametrize(
  'section, key, value, words',
  [
    ('model', 'colour', 1, 'model.colour: unknown key'),
    ('model', 'n_layers', True, 'must be of type int'),
    ('model', 'n_layers', '3', 'must be of type int'),
    ('model', 'remat', 1, 'must be of type bool'),
    ('optimizer', 'b1', float('nan'), 'must be finite'),
  ],
)
def test_a_config_file_is_held_to_the_schema(section, key, value, words):
  values = config.defaults()
  values[section][key] = value
  with pytest.raises(config.ConfigError, match=re.escape(words)):
    config.from_dict(values)


def test_a_section_must_be_a_section():
  with pytest.raises(config.ConfigError, match='model = 3'):
    config.from_dict({**config.defaults(), 'model': 3})


def test_a_close_name_is_suggested():
  with pytest.raises(
    config.ConfigError, match='did you mean optimizer.peak_lr'
  ):
    config.from_dict({'optimizer': {'peak_rl': 0.9}})


def test_alterations_are_told_apart_by_what_they_take():
  old, new = config.defaults(), config.defaults()
  new['optimizer']['peak_lr'] = 1.0
  new['logging']['every'] = 7
  new['batch_size'] = 3
  assert config.alterations(old, new) == {
    'fork': ['optimizer.peak_lr: 0.001 -> 1.0'],
    'nothing': ['logging.every: 50 -> 7'],
    'new run': ['batch_size: 256 -> 3'],
  }
  assert not any(config.alterations(old, old).values())


@pytest.mark.parametrize(
  'value, unit, steps',
  [(100, 'steps', 100), (409_600, 'tokens', 100), (100, 'dense_steps', 259)],
)
def test_durations_in_any_unit(value, unit, steps):
  loaded = load_config(
    SMOKE,
    [f'--config.duration.value={value}', f'--config.duration.unit={unit}'],
  )
  assert recipe.make_plan(loaded).steps == pytest.approx(steps, abs=5)


@pytest.mark.parametrize('name', PAPER)
def test_the_docstring_shows_the_plan(name, capsys):
  path = next(path for path in CONFIGS if path.stem == name)
  assert train.main([f'--config={path}', '--plan']) == 0
  table, _, notes = capsys.readouterr().out.rpartition('---\n')
  assert notes.startswith("data: not here: data.path = ''")
  lines = table.splitlines()[2:-1]
  document = ast.get_docstring(ast.parse(path.read_text()))
  assert [line for line in lines if line not in document] == []
