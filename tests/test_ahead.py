"""What a run would take on devices that are not here."""

import functools
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from jax_sparse_pretrain import command_line, hardware, train
from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.compile_ahead import program, topology
from jax_sparse_pretrain.compile_ahead.hlo import (
  costs,
  execution,
  instructions,
)
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.training import setup

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
MESH = {'data': 2, 'fsdp': 2, 'tensor': 2}
EIGHT = topology.parse_topology('cpu-8')


DENSE = {'sparsity': 0.0}


@functools.cache
def compiled(changes):
  config = tiny.tiny_config(**json.loads(changes))
  return program.compile_train_step(config, EIGHT)


def ahead(**changes):
  return compiled(json.dumps({'mesh': MESH, **changes}))


def executed(function, *arguments):
  """The program of a function, and what it runs."""
  parsed = instructions.parse(
    jax.jit(function).lower(*arguments).compile().as_text()
  )
  return parsed, list(execution.walk(parsed))


def sharded(shape, *axes):
  mesh = jax.make_mesh((8,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
  where = NamedSharding(mesh, PartitionSpec(*axes))
  return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)


# What is compiled.


@pytest.mark.slow
@pytest.mark.parametrize('mask_documents', [False, True])
def test_what_is_compiled_is_what_a_run_would_run(mask_documents):
  config = tiny.tiny_config(mesh=MESH, data={'mask_documents': mask_documents})
  experiment = setup.set_up(config)
  rows = experiment.to_devices(next(experiment.batches))
  run = experiment.programs.train_step.lower(
    experiment.programs.abstract_state, rows, experiment.controls(0)
  )
  experiment.batches.close()
  parts = setup.make_parts(config, topology.devices(EIGHT))
  ahead_of_time = program.lower_train_step(config, parts)

  def text(lowered):
    # Callbacks of partitioning are named by their address.
    return re.sub(r'backend_config = "\d+"', '', lowered.as_text())

  assert text(ahead_of_time) == text(run)
  assert 'CustomSPMDPartitioning' in text(run)


@pytest.mark.slow
def test_no_array_is_made():
  before = len(jax.live_arrays())
  ahead(pruning=DENSE)
  assert len(jax.live_arrays()) == before


@pytest.mark.slow
def test_a_model_larger_than_the_machine_is_lowered_at_once():
  """1.2B parameters: 16 GB of state on each of eight devices."""
  before = len(jax.live_arrays())
  changes = ['--config.mesh.data=-1', '--config.mesh.fsdp=1']
  config = command_line.load_config(str(CONFIGS / 'c4_1b.py'), changes)
  parts = setup.make_parts(config, topology.devices(EIGHT))
  assert 'stablehlo' in program.lower_train_step(config, parts).as_text()
  total = program.shard_bytes(parts.programs.abstract_state)
  assert total > 13 * counts.linear_parameters(config.model)
  assert len(jax.live_arrays()) == before


# Memory.


@pytest.mark.slow
def test_state_of_a_device_is_what_shapes_and_mesh_say():
  model = tiny.tiny_config().model
  kernels = counts.linear_parameters(model)
  embedding = model.vocab_size * model.d_model
  norms = counts.total_parameters(model) - kernels - embedding
  # Split over fsdp and tensor, norm scales nowhere.
  params = 4 * ((kernels + embedding) // 4 + norms)
  state = ahead().state
  assert state == {
    'params': params,
    'optimizer': 2 * params + 4,  # and Adam's count
    'masks': kernels // 4,
    'batch': 8 // 4 * (model.context_length + 1) * 4,
  }
  # The step, the learning rate and the budget come on top.
  assert 0 < ahead().memory.arguments - sum(state.values()) < 64


@pytest.mark.slow
def test_a_dense_run_has_no_masks_and_no_update():
  dense = ahead(pruning=DENSE)
  assert dense.state['masks'] == 0
  assert dense.update == program.Cost(0, 0, (), ())
  assert 'mask update' not in program.step_table(dense)


@pytest.mark.slow
def test_the_state_is_updated_in_place():
  used = ahead().memory
  assert used.outputs - used.reused < 2048
  assert used.total == (
    used.arguments + used.outputs - used.reused + used.temporaries + used.code
  )


@pytest.mark.slow
def test_twice_the_rows_take_more_temporaries_and_no_more_state():
  few, many = ahead(pruning=DENSE), ahead(pruning=DENSE, batch_size=16)
  assert many.memory.temporaries > 1.5 * few.memory.temporaries
  assert many.state == {**few.state, 'batch': 2 * few.state['batch']}


# FLOPs and bytes.


def flops_of_model(config):
  """Of a step: in a model as here, matrix products alone."""
  nonzero = counts.linear_parameters(config.model)
  of_token = counts.flops_per_token(config.model, nonzero)
  return of_token * config.tokens_per_step


IN_PARTS = {'pruning': DENSE, 'batch_size': 16, 'accumulation_steps': 2}


@pytest.mark.slow
@pytest.mark.parametrize(
  'changes', [{}, pytest.param(IN_PARTS, marks=pytest.mark.slow)]
)
def test_flops_are_those_of_the_model(changes):
  result = ahead(**changes)
  assert 8 * result.step.flops == flops_of_model(tiny.tiny_config(**changes))
  assert result.update.flops == 0


@pytest.mark.slow
def test_recomputed_activations_are_paid_for():
  again = ahead(pruning=DENSE, model={'remat': True})
  assert 1.1 < again.step.flops / ahead(pruning=DENSE).step.flops < 4 / 3


@pytest.mark.slow
def test_bytes_and_flops_agree_with_xla_where_nothing_loops():
  changes = {'model': {'scan_layers': False}, 'pruning': DENSE}
  config = tiny.tiny_config(mesh=MESH, **changes)
  parts = setup.make_parts(config, topology.devices(EIGHT))
  alone = program.lower_train_step(config, parts).compile()
  step, _ = program.costs(alone, 8)
  assert 8 * step.flops == flops_of_model(config)
  said = alone.cost_analysis()
  # The rest is elementwise, of weight in a model as small as this.
  assert 0.6 < step.flops / said['flops'] < 1
  assert step.n_bytes == pytest.approx(said['bytes accessed'], rel=0.1)


def test_a_loop_is_paid_for_as_often_as_it_runs():
  def repeated(x):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=7)[0]

  _, found = executed(repeated, jnp.ones((64, 64)))
  assert sum(map(costs.flops, found)) == 7 * 2 * 64**3
  assert all(not each.loops for each in found)


def test_a_loop_of_unknown_length_is_named_and_counted_once():
  def until(x):
    return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)

  _, found = executed(until, jnp.ones((64, 64)))
  assert sum(map(costs.flops, found)) == 2 * 64**3
  assert len({name for each in found for name in each.loops}) == 1
  cost = program.Cost(1, 1, (), ('while.1',))
  text = program.step_table(ahead()._replace(step=cost))
  assert '1 loops of the step have no length' in text


# As libtpu writes them, but for the shapes.
ON_TPU = """
HloModule on_tpu
%body (state: (s32[], bf16[2,512])) -> (s32[], bf16[2,512]) {
  %one = s32[]{:T(128)} constant(1)
  %state = (s32[]{:T(128)}, bf16[2,512]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %at = s32[]{:T(128)S(6)} copy(%i)
  %next = s32[]{:T(128)} add(%at, %one), metadata={op_name="add"}
  %x = bf16[2,512]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state), index=1
  %sum = bf16[2,512]{1,0} all-reduce(%x), channel_id=1, REPLICA_GROUPS, to_apply=%add
  ROOT %out = (s32[]{:T(128)}, bf16[2,512]{1,0}) tuple(%next, %sum)
}

%condition (state.1: (s32[], bf16[2,512])) -> pred[] {
  %limit = s32[]{:T(128)} constant(6)
  %state.1 = (s32[]{:T(128)}, bf16[2,512]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

%kept (same: f32[32,8]) -> f32[32,8] {
  ROOT %same = f32[32,8]{1,0} parameter(0)
}

%updated (old: f32[32,8]) -> f32[32,8] {
  %old = f32[32,8]{1,0} parameter(0)
  %begun = ((f32[32,8]{1,0}), f32[128,8]{1,0}) all-gather-start(%old), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %whole = f32[128,8]{1,0} all-gather-done(%begun)
  ROOT %again = f32[32,8]{1,0} reduce-scatter(%whole), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
}

%all-reduce-scatter.1 (given: f32[32,8]) -> f32[8,8] {
  %given = f32[32,8]{1,0} parameter(0)
  %of_all = f32[32,8]{1,0} all-reduce(%given), replica_groups={}, to_apply=%add
  ROOT %own = f32[8,8]{1,0} slice(%of_all), slice={[0:8], [0:8]}
}

ENTRY %main (x.1: bf16[2,512], y: f32[32,8], which: s32[]) -> f32[32,8] {
  %x.1 = bf16[2,512]{1,0} parameter(0)
  %y = f32[32,8]{1,0} parameter(1)
  %which = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %begin = (s32[]{:T(128)}, /*index=1*/bf16[2,512]{1,0}) tuple(%zero, %x.1)
  %loop = (s32[]{:T(128)}, bf16[2,512]{1,0}) while(%begin), condition=%condition, body=%body
  %part = f32[8,8]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
  %moved = f32[32,8]{1,0} collective-permute(%y), source_target_pairs={{0,1},{1,0}}
  ROOT %last = f32[32,8]{1,0} conditional(%which, %moved, %moved), branch_computations={%kept, %updated}
}
"""  # noqa: E501
FOUR = (
  "replica_groups=mesh['a'=4,'b'=2] {'a'}",
  "replica_groups=mesh['a'=2,'b'=8] {'a','b':(4)2}",
  "replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}",
  'replica_groups={{0,1,2,3},{4,5,6,7}}',
  'replica_groups=[2,4]<=[8]',
  'replica_groups=[2,4]<=[4,2]T(1,0)',
)


@pytest.mark.parametrize('groups', FOUR)
def test_messages_of_a_program_as_tpus_have_it(groups):
  parsed = instructions.parse(ON_TPU.replace('REPLICA_GROUPS', groups))
  found = list(execution.walk(parsed))
  Collective = costs.Collective
  # Six times 2 x 512 bfloat16 in a loop; a ring sends 2 x 3/4 of each.
  assert costs.collectives(
    (each for each in found if not each.is_update), 8
  ) == (
    Collective('all-reduce', 6, 6 * 2048, 6 * 2048 * 3 // 2),
    Collective('reduce-scatter', 1, 1024, 1024 * 7 // 8),
    Collective('collective-permute', 1, 1024, 1024),
  )
  # In the branch of an update: 32 x 8 float32 of each of four devices.
  assert costs.collectives((each for each in found if each.is_update), 8) == (
    Collective('all-gather', 1, 4096, 3072),
    Collective('reduce-scatter', 1, 4096, 3072),
  )


def test_groups_of_an_unknown_form_are_not_guessed():
  assert costs.group_size('channel_id=1, replica_groups={}', 8) == 8
  with pytest.raises(ValueError, match='cannot read the groups'):
    costs.group_size('replica_groups=new{0}', 8)


# As libtpu writes them: a message that passes behind a product.
ON_ITS_WAY = """
HloModule on_its_way
%begin (part: bf16[8,16]) -> (bf16[8,16], bf16[32,16], u32[]) {
  %part = bf16[8,16]{1,0} parameter(0)
  %gather = bf16[32,16]{1,0} all-gather(%part), channel_id=1, GROUPS, dimensions={0}, frontend_attributes={chain_id="7"}
  ROOT %start = (bf16[8,16]{1,0}, bf16[32,16]{1,0}, u32[]{:S(2)}) custom-call(%gather), custom_call_target="AsyncCollectiveStart"
}

%behind (part.1: bf16[8,16], whole.1: bf16[32,16], flag.1: u32[], x.1: f32[4,4]) -> (f32[4,4], bf16[8,16], bf16[32,16], bf16[32,16], u32[]) {
  %part.1 = bf16[8,16]{1,0} parameter(0)
  %whole.1 = bf16[32,16]{1,0} parameter(1)
  %flag.1 = u32[]{:S(2)} parameter(2)
  %x.1 = f32[4,4]{1,0} parameter(3)
  %twice = f32[4,4]{1,0} add(%x.1, %x.1)
  %gather.1 = bf16[32,16]{1,0} all-gather(%part.1), channel_id=1, GROUPS, dimensions={0}, frontend_attributes={chain_id="7"}
  ROOT %all = (f32[4,4]{1,0}, bf16[8,16]{1,0}, bf16[32,16]{1,0}, bf16[32,16]{1,0}, u32[]{:S(2)}) tuple(%twice, %part.1, %whole.1, %gather.1, %flag.1)
}

%end (part.2: bf16[8,16], whole.2: bf16[32,16], flag.2: u32[]) -> bf16[32,16] {
  %part.2 = bf16[8,16]{1,0} parameter(0)
  %whole.2 = bf16[32,16]{1,0} parameter(1)
  %flag.2 = u32[]{:S(2)} parameter(2)
  %gather.2 = bf16[32,16]{1,0} all-gather(%part.2), channel_id=1, GROUPS, dimensions={0}, frontend_attributes={chain_id="7"}
  ROOT %done = bf16[32,16]{1,0} custom-call(%part.2, %whole.2, %gather.2, %flag.2), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (p: bf16[8,16], x: f32[4,4]) -> bf16[32,16] {
  %p = bf16[8,16]{1,0} parameter(0)
  %x = f32[4,4]{1,0} parameter(1)
  %begun = (bf16[8,16]{1,0}, bf16[32,16]{1,0}, u32[]{:S(2)}) fusion(%p), kind=kCustom, calls=%begin
  %a = bf16[8,16]{1,0} get-tuple-element(%begun), index=0
  %b = bf16[32,16]{1,0} get-tuple-element(%begun), index=1
  %c = u32[]{:S(2)} get-tuple-element(%begun), index=2
  %passed = (f32[4,4]{1,0}, bf16[8,16]{1,0}, bf16[32,16]{1,0}, bf16[32,16]{1,0}, u32[]{:S(2)}) fusion(%a, %b, %c, %x), kind=kOutput, calls=%behind
  %d = bf16[32,16]{1,0} get-tuple-element(%passed), index=3
  ROOT %awaited = bf16[32,16]{1,0} fusion(%a, %d, %c), kind=kCustom, calls=%end
}
""".replace('GROUPS', 'replica_groups={{0,1,2,3},{4,5,6,7}}')  # noqa: E501


def test_a_message_on_its_way_is_counted_once():
  parsed = instructions.parse(ON_ITS_WAY)
  found = list(execution.walk(parsed))
  [gathered] = costs.collectives(found, 8)
  assert gathered == ('all-gather', 1, 1024, 768)
  moved = {e.instruction.name: costs.traffic(parsed, e) for e in found}
  # Read and write 4 x 4 float32; what passes by is not touched.
  assert moved['passed'] == 2 * 64
  assert sum(moved.values()) < 4 * 1024


@pytest.mark.parametrize(
  'line',
  [
    'bf16[2,4,8,6] convolution(%x, %w), window={size=1x8 pad=0_0x7_7 '
    'rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f',
  ],
)
def test_a_product_over_heads_is_counted_once(line):
  """x[B, L, D] @ w[D, H, K], as a TPU has it: H is padded to slide over w."""
  parsed = instructions.parse(
    'HloModule h\nENTRY %main (x: bf16[2,4,16,1]) -> bf16[2,4,8,6] {\n'
    '  %x = bf16[2,4,16,1]{3,2,1,0} parameter(0)\n'
    '  %w = bf16[16,8,6,1]{3,2,1,0} parameter(1)\n'
    f'  ROOT %y = {line}\n}}\n'
  )
  [*_, product] = execution.walk(parsed)
  assert costs.flops(product) == 2 * (2 * 4) * 16 * (8 * 6)


def test_a_product_for_each_head_is_counted_once():
  """Attention's q k^T on a TPU: rows and heads are axes dilated apart."""
  parsed = instructions.parse(
    'HloModule h\nENTRY %main (q: bf16[2,32,8,16]) -> f32[2,8,32,32] {\n'
    '  %q = bf16[2,32,8,16]{3,2,1,0} parameter(0)\n'
    '  %k = bf16[2,32,8,16]{3,2,1,0} parameter(1)\n'
    '  ROOT %y = f32[2,8,32,32]{3,2,1,0} convolution(%q, %k), '
    'window={size=2x8 stride=1x7 lhs_dilate=2x8}, '
    'dim_labels=0b1f_0o1i->01bf\n}\n'
  )
  [*_, product] = execution.walk(parsed)
  assert costs.flops(product) == 2 * (2 * 8) * 32 * 32 * 16


def test_messages_of_a_real_program_are_those_that_were_asked_for():
  def mean_of_rows(x):  # of 16 x 8 on each device
    _, sums = jax.lax.scan(
      lambda n, _: (n + 1, (x * n).sum(axis=0)), jnp.float32(0), length=5
    )
    return sums.sum(axis=0)

  _, found = executed(mean_of_rows, sharded((128, 8), 'x'))
  [reduced] = costs.collectives(found, 8)
  assert reduced.kind == 'all-reduce'
  # The compiler may sum the five over devices at once.
  assert reduced.n_bytes in (5 * 8 * 4, 8 * 4)
  assert reduced.sent == reduced.n_bytes * 7 // 4


def test_a_gathered_array_counts_whole():
  x = sharded((128, 8), 'x')
  gather = jax.jit(lambda x: x + 1, out_shardings=sharded((), *[]).sharding)
  parsed = instructions.parse(gather.lower(x).compile().as_text())
  [gathered] = costs.collectives(execution.walk(parsed), 8)
  assert gathered == ('all-gather', 1, 4096, 4096 * 7 // 8)


def test_a_slice_of_a_large_array_costs_the_slice():
  def one_of(x, i):
    return jax.lax.dynamic_index_in_dim(x, i) * 2

  parsed, found = executed(one_of, jnp.ones((1000, 64)), 3)
  assert sum(costs.traffic(parsed, each) for each in found) < 4 * 64 * 4


def test_a_mask_update_sends_nothing_but_counts():
  result = ahead()
  assert {c.kind for c in result.update.collectives} == {'all-reduce'}
  n_messages = sum(c.count for c in result.update.collectives)
  # A number for each of two layers, seven kernels of them, and three digits.
  assert sum(c.n_bytes for c in result.update.collectives) <= (
    n_messages * 4 * 3 * 15
  )
  assert not result.update.loops and not result.step.loops


@pytest.mark.slow
def test_the_gradients_are_summed_over_the_devices_that_share_them():
  data = ahead(mesh={'data': 8}, pruning=DENSE)
  n = counts.total_parameters(tiny.tiny_config().model)
  [reduced] = data.step.collectives
  assert reduced.kind == 'all-reduce'
  # In float32, with the loss.
  assert reduced.n_bytes == pytest.approx(4 * n, rel=0.01)


# Topologies and chips.


@pytest.mark.parametrize(
  'name, n_devices, layout',
  [
    ('v4-8', 4, 'v4:2x2x1'),
    ('v5e-16', 16, 'v5e:4x4'),
    ('v5e-256', 256, 'v5e:16x16'),
    ('v5p-12288', 6144, 'v5p:16x16x24'),
    ('v6e-1', 1, 'v6e:1x1'),
    ('cpu-3', 3, None),
  ],
)
def test_a_topology_is_read_from_its_name(name, n_devices, layout):
  found = topology.parse_topology(name)
  assert (found.n_devices, found.layout) == (n_devices, layout)
  assert (found.chip is None) == name.startswith('cpu')
  if layout:
    dims = layout.split(':')[1].split('x')
    assert math.prod(map(int, dims)) == n_devices


REFUSED = {
  'tpu-8': 'must be v4-N, v5e-N, v5p-N, v6e-N or cpu-N',
  'v5e': 'must be v4-N, v5e-N, v5p-N, v6e-N or cpu-N',
  '': '--topology: must be given',
  'v5e-17': 'v5e-N with N one of 1, 4, 8, 16, 32, 64, 128, 256',
  'v4-4': 'v4-N with N one of 8, 16, 32',
  'v5e-0': 'must be v4-N',
  'cpu-0': 'must be v4-N',
  'cpu-1000000': 'cpu-N with N from 1 to 1,024',
  'cpu-16': 'needs 16 fake devices; JAX has already started with 8',
}


def command(*arguments):
  return ['--config=configs/smoke.py', '--compile_only', *arguments]


@pytest.mark.parametrize('name', REFUSED)
def test_an_unknown_topology_is_one_line(name, capsys):
  assert len(jax.devices()) == 8  # JAX has started.
  assert train.main(command(f'--topology={name}')) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith('error: --topology') and REFUSED[name] in line


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['--config.batch_size=12'], 'batch_size / accumulation_steps = 12'),
    (['--config.mesh.fsdp=3'], 'must multiply to the number of devices, 8'),
    (['--config.evaluation.batch_size=9'], 'evaluation.batch_size = 9'),
    (
      [
        '--config.model.attention=cudnn',
        '--config.model.compute_dtype=bfloat16',
      ],
      'needs an NVIDIA GPU',
    ),
    (['--config.model.d_modle=9'], 'd_modle'),
  ],
)
def test_what_a_run_would_refuse_is_refused(arguments, words, capsys):
  assert train.main(command('--topology=cpu-8', *arguments)) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert words in line


def test_a_topology_is_not_taken_where_it_has_no_effect(capsys):
  argv = ['--config=configs/smoke.py', '--workdir=/nowhere', '--topology=cpu-8']
  assert train.main(argv) == 2
  assert 'only with --compile_only' in capsys.readouterr().err


def test_the_command_prints_a_table_of_80_columns(capsys):
  flags = [f'--config.model.{k}={v}' for k, v in tiny.VALUES['model'].items()]
  argv = command('--topology=cpu-8', '--config.batch_size=8', *flags)
  argv.append('--config.pruning.sparsity=0')
  assert train.main(argv) == 0
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) <= 80
  text = '\n'.join(lines)
  assert 'One of 8 x CPU (cpu-8): data 8, fsdp 1, tensor 1' in text
  for label in ('Parameters', 'Optimizer', 'Masks', 'Temporaries', 'FLOPs'):
    assert f'{label}  ' in text
  assert re.search(r'all-reduce .* messages, sends .* in a ring', text)
  assert 'on fake devices' in text


def on_chip(**memory_changes):
  where = topology.parse_topology('v5e-8')._replace(is_fake=True)
  result = ahead()._replace(topology=where)
  return result._replace(memory=result.memory._replace(**memory_changes))


def test_whether_it_fits_is_said_of_the_chip():
  assert on_chip().fits
  assert 'fits: 0.0% of 16 GiB' in program.step_table(on_chip())
  large = on_chip(temporaries=17 * hardware.GIB)
  assert large.fits is False
  text = program.step_table(large)
  assert 'DOES NOT FIT: 106.3% of 16 GiB' in text
  assert max(map(len, text.splitlines())) <= 80
  assert ahead().fits is None


def test_a_refusal_of_the_compiler_is_said_in_its_words():
  words = 'Ran out of memory in memory space hbm. Used 21.09G of 15.75G hbm.'
  text = program.step_table(
    on_chip()._replace(memory=None, step=None, update=None, refusal=words)
  )
  assert words in text.replace('\n', ' ') and 'too much' in text
  assert on_chip()._replace(memory=None).fits is False


def test_every_chip_has_a_size_a_speed_and_a_source():
  for chip in hardware.CHIPS.values():
    assert 16 <= chip.memory / hardware.GIB <= 192
    assert 1e14 < chip.peak_flops < 5e15
    assert chip.source.startswith('https://')
  a100 = hardware.chip_of('NVIDIA A100-SXM4-40GB')
  assert a100.memory < hardware.chip_of('NVIDIA A100-SXM4-80GB').memory


@pytest.mark.skipif(not topology.has_libtpu(), reason='needs libtpu')
def test_a_tpu_slice_is_compiled_by_its_own_compiler():
  config = tiny.tiny_config(mesh=MESH, model={'compute_dtype': 'bfloat16'})
  result = program.compile_train_step(config, topology.parse_topology('v5e-8'))
  assert 8 * result.step.flops == pytest.approx(
    flops_of_model(config), rel=1e-6
  )
  assert {c.kind for c in result.update.collectives} == {'all-reduce'}
  assert not result.step.loops and not result.update.loops
  assert result.fits


@pytest.mark.skipif(not topology.has_libtpu(), reason='needs libtpu')
def test_a_mesh_that_no_axes_of_a_slice_make_up_is_one_line(capsys):
  """The slice is 16 x 16 x 24 chips."""
  changes = ['--config.mesh.data=-1', '--config.mesh.tensor=4']
  assert train.main(command('--topology=v5p-12288', *changes)) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert 'mesh.tensor = 4: Failed to find assignment' in line


@functools.cache
def split_over(**mesh):
  """A step on 16 chips in two micro-batches."""
  model = {'d_model': 256, 'compute_dtype': 'bfloat16', 'remat': True}
  changes = {'batch_size': 64, 'accumulation_steps': 2, 'pruning': DENSE}
  config = tiny.tiny_config(mesh={'tensor': 1, **mesh}, model=model, **changes)
  result = program.compile_train_step(config, topology.parse_topology('v5e-16'))
  return config, {c.kind: c for c in result.step.collectives}


def scattered(**mesh):
  """What the compiler makes of a reduce-scatter over fsdp, asked for."""
  devices = topology.devices(topology.parse_topology('v5e-16'))
  where = jax.make_mesh(
    tuple(mesh.values()),
    tuple(mesh),
    axis_types=(jax.sharding.AxisType.Auto,) * len(mesh),
    devices=devices,
  )
  split = PartitionSpec(tuple(mesh))
  scatter = jax.shard_map(
    lambda x: jax.lax.psum_scatter(x, 'fsdp', tiled=True),
    mesh=where,
    in_specs=split,
    out_specs=split,
  )
  rows = jax.ShapeDtypeStruct(
    (16 * 1024, 1024), jnp.float32, sharding=NamedSharding(where, split)
  )
  parsed = instructions.parse(jax.jit(scatter).lower(rows).compile().as_text())
  return costs.collectives(execution.walk(parsed), 16)


MESHES = ({'data': 4, 'fsdp': 4}, {'data': 1, 'fsdp': 16})


@pytest.mark.skipif(not topology.has_libtpu(), reason='needs libtpu')
@pytest.mark.parametrize('mesh', MESHES)
def test_gradients_are_scattered_where_the_compiler_scatters(mesh):
  """Not over a whole slice: there it sums all, even if asked not to."""
  [asked] = scattered(**mesh)
  _, found = split_over(**mesh)
  assert ('reduce-scatter' in found) == (asked.kind == 'reduce-scatter')


@pytest.mark.skipif(not topology.has_libtpu(), reason='needs libtpu')
@pytest.mark.parametrize('mesh', MESHES)
def test_a_kernel_is_gathered_for_each_pass(mesh):
  config, found = split_over(**mesh)
  of_all = 2 * counts.total_parameters(config.model)  # in bfloat16
  # Forward, forward again, backward.
  times = found['all-gather'].n_bytes / config.accumulation_steps / of_all
  assert 1 < times < 3.1


def test_what_is_no_program_is_refused():
  with pytest.raises(ValueError, match='no ENTRY'):
    instructions.parse('nothing')
  assert np.isclose(
    instructions.n_bytes('(f32[2,3]{1,0}, /*index=1*/s4[3], pred[])'),
    24 + 2 + 1,
    atol=1,
  )
  with pytest.raises(config_lib.ConfigError, match='must be'):
    topology.parse_topology('cpu-08')
