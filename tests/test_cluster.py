"""Whether there are other processes, from the command line or a cluster."""

import pathlib

import pytest

from jax_sparse_pretrain import distributed, train
from jax_sparse_pretrain.command_line import StopRequest
from jax_sparse_pretrain.config import ConfigError

SMOKE = pathlib.Path(__file__).parents[1] / 'configs' / 'smoke.py'
SLURM = {
  'SLURM_JOB_ID': '7',
  'SLURM_STEP_NODELIST': 'node[01-02]',
  'SLURM_PROCID': '1',
  'SLURM_LOCALID': '0',
}
OPEN_MPI = {'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1:34911'}
CLUSTERS = {
  'none': ({}, False),
  'slurm': ({**SLURM, 'SLURM_NTASKS': '2'}, True),
  'slurm, one task': ({**SLURM, 'SLURM_NTASKS': '1'}, False),
  'slurm, outside of a step': ({'SLURM_NTASKS': '2'}, False),
  'open mpi': ({**OPEN_MPI, 'OMPI_COMM_WORLD_SIZE': '4'}, True),
  'open mpi, one': ({**OPEN_MPI, 'OMPI_COMM_WORLD_SIZE': '1'}, False),
  'a pod of kubernetes': ({'KUBERNETES_SERVICE_HOST': '10.0.0.1'}, False),
}


@pytest.mark.parametrize('case', CLUSTERS)
def test_several_processes_are_detected(case, monkeypatch):
  environment, are_several = CLUSTERS[case]
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert distributed._are_several(distributed.Options()) == are_several


def test_one_process_has_nobody_to_wait_for():
  for options in (
    distributed.Options(),
    distributed.Options('nowhere:1', 0, 1),
  ):
    with StopRequest() as stop:
      assert distributed.run_joined(options, stop, lambda it: it is stop)


def test_a_cluster_that_cannot_be_asked_is_an_error(monkeypatch):
  for name, value in {**SLURM, 'SLURM_NTASKS': 'two'}.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(
    ConfigError, match='SlurmCluster of JAX: .* --coordinator'
  ):
    distributed._are_several(distributed.Options())


BAD_OPTIONS = {
  'alone': (['--process=1'], 'must be given together'),
  'no port': (
    ['--coordinator=here', '--process=0', '--processes=2'],
    '--coordinator = here: must be HOST:PORT',
  ),
  'an address': (
    ['--coordinator=http://here:1', '--process=0', '--processes=2'],
    '--coordinator = http://here:1: must be HOST:PORT',
  ),
  'no such port': (
    ['--coordinator=here:99999', '--process=0', '--processes=2'],
    '--coordinator = here:99999: its port = 99999: must be from 1 to 65535',
  ),
  'too high': (
    ['--coordinator=here:1', '--process=2', '--processes=2'],
    '--process = 2: must be from 0 to 1',
  ),
  'none': (
    ['--coordinator=here:1', '--process=0', '--processes=0'],
    '--processes = 0: must be at least 1',
  ),
  'two ports': (
    ['--coordinator=here:1', '--process=0', '--processes=2',
     '--coordinator_port=2'],
    '--coordinator_port: --coordinator has a port already',
  ),
  'no port of a cluster': (
    ['--coordinator_port=-5'], '--coordinator_port = -5: must be from 1',
  ),
  'no time': (['--connect_timeout=0'], '--connect_timeout = 0: must be at'),
  'no heart': (['--heartbeat_timeout=-3'], '--heartbeat_timeout = -3: must'),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD_OPTIONS)
def test_options_that_do_not_fit_are_refused(case, tmp_path, capsys):
  arguments, words = BAD_OPTIONS[case]
  argv = [f'--config={SMOKE}', f'--workdir={tmp_path}/run', *arguments]
  assert train.main(argv) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  assert words in line
