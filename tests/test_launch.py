"""The scripts of launch/: what they would run, and what the supervisor does."""

import ast
import os
import pathlib
import re
import runpy
import shlex
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
import types

import cloud
import pytest
import supervisor_transcript
import yaml
from cloud import LAUNCH, ROOT, Cloud
from packaging.requirements import Requirement

from jax_sparse_pretrain import command_line

TPU_SCRIPTS = sorted(path.name for path in LAUNCH.glob('tpu_*.sh'))
SBATCH = sorted(path.name for path in LAUNCH.glob('*.sbatch'))
WHERE = '--project=my-project --zone=us-west4-a --quiet'
DESCRIBE = (
  'gcloud compute tpus queued-resources describe sparse-58m '
  "'--format=value(state.state,state.failedData.error.message)' " + WHERE
)
STATUS = (
  'gcloud compute tpus tpu-vm ssh sparse-58m --worker=all '
  "'--command=bash sparse/code/launch/worker_status.sh 2>/dev/null || "
  f"echo none' {WHERE}"
)
CREATE = (
  'gcloud compute tpus queued-resources create sparse-58m '
  '--node-id=sparse-58m --accelerator-type=v5litepod-16 '
  '--runtime-version=v2-alpha-tpuv5-lite --spot ' + WHERE
)
SETUP = (
  f'git -C {ROOT} archive --format=tar.gz '
  '--output=TMP/sparse-sparse-58m.tar.gz HEAD\n'
  'gcloud compute tpus tpu-vm scp TMP/sparse-sparse-58m.tar.gz '
  f'sparse-58m:sparse.tar.gz --worker=all {WHERE}\n'
  'gcloud compute tpus tpu-vm ssh sparse-58m --worker=all '
  "'--command=rm -rf sparse/code && mkdir -p sparse/code && "
  'tar -xzf sparse.tar.gz -C sparse/code && '
  f"bash sparse/code/launch/worker_setup.sh' {WHERE}"
)
TRAIN = (
  'gcloud compute tpus tpu-vm ssh sparse-58m --worker=all '
  "'--command=bash sparse/code/launch/worker_train.sh "
  '--config=configs/c4_58m.py '
  f"--workdir=gs://my-bucket/runs/c4_58m' {WHERE}"
)
DELETE = (
  f'gcloud compute tpus queued-resources delete sparse-58m --force {WHERE}'
)
DRY_RUNS = {
  'tpu_create.sh': CREATE,
  'tpu_setup.sh': SETUP,
  'tpu_train.sh': TRAIN,
  'tpu_logs.sh': (
    'gcloud compute tpus tpu-vm ssh sparse-58m --worker=0 '
    f"'--command=tail -n 100 -F sparse/run/log' {WHERE}"
  ),
  'tpu_status.sh': f'{DESCRIBE}\n{STATUS}',
  'tpu_delete.sh': DELETE,
  'tpu_supervise.sh': '\n'.join(
    [
      DESCRIBE,
      STATUS,
      CREATE,
      SETUP,
      TRAIN,
      '# tpu_status.sh every 60 s; after a preemption, or at the end:',
      DELETE,
    ]
  ),
}
QUOTA = "Quota 'TPUV5sPreemptible' exhausted. Limit 16 in region us-west4"


# Every script.


def test_shellcheck_finds_nothing():
  scripts = [*LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch')]
  command = ['shellcheck', *map(str, scripts)]
  found = subprocess.run(command, capture_output=True, text=True)
  assert (found.returncode, found.stdout) == (0, '')


@pytest.mark.parametrize('name', TPU_SCRIPTS)
def test_dry_run_prints_the_commands_and_runs_none(name, tmp_path):
  world = Cloud(tmp_path)
  result = world.run(name, '--dry-run')
  assert result.returncode == 0
  assert result.stdout.replace(str(tmp_path), 'TMP').rstrip() == DRY_RUNS[name]
  assert world.calls == []


@pytest.mark.parametrize('name', [*TPU_SCRIPTS, *SBATCH])
def test_help_is_the_comment_on_top(name, tmp_path):
  result = cloud.run(name, '--help', folder=tmp_path)
  assert result.returncode == 0
  assert f'launch/{name}' in result.stdout
  assert not re.search('^(#|source|SBATCH)', result.stdout, re.M)


@pytest.mark.parametrize('name', sorted({*TPU_SCRIPTS} - {'tpu_supervise.sh'}))
def test_scripts_run_what_their_dry_runs_print(name, tmp_path):
  world = Cloud(tmp_path, [['ACTIVE']])
  if name != 'tpu_create.sh':
    world.run('tpu_create.sh')
    world.run('tpu_status.sh')
  before = len(world.calls)
  result = world.run(name)
  assert result.returncode == 0, result.stderr
  printed = [
    shlex.split(x) for x in world.run(name, '--dry-run').stdout.split('\n')
  ]
  gcloud = [line for line in printed if line[:1] == ['gcloud']]
  assert world.calls[before:] == gcloud


@pytest.mark.parametrize(
  ('setting', 'value'),
  [
    ('PROJECT', ''),
    ('ZONE', 'us-west4'),
    ('TPU_NAME', 'Sparse_58M'),
    ('ACCELERATOR_TYPE', 'v5litepod'),
    ('RUNTIME_VERSION', ''),
    ('CAPACITY', 'cheap'),
    ('CONFIG', 'configs/none.py'),
    ('WORKDIR', 'runs/c4_58m'),
    ('POLL_SECONDS', '0'),
    ('MAX_ATTEMPTS', 'many'),
  ],
)
def test_bad_settings_are_one_line_that_names_them(setting, value, tmp_path):
  world = Cloud(tmp_path)
  result = world.run('tpu_create.sh', **{setting: value})
  assert result.returncode == 2
  assert re.fullmatch(f'error: {setting} = {value}: .*\n', result.stderr)
  assert world.calls == []


def test_missing_settings_say_what_to_copy(tmp_path):
  result = cloud.run('tpu_create.sh', folder=tmp_path)
  assert result.returncode == 2
  assert result.stderr == (
    f'error: {tmp_path}/env.sh: is not there; copy launch/env.example.sh to it '
    'and edit\n'
  )


@pytest.mark.parametrize('text', ['PROJECT = me', 'ZONE=$PLACE', 'ZONE=('])
def test_settings_that_bash_cannot_read_are_refused(text, tmp_path):
  (tmp_path / 'env.sh').write_text(f'{text}\n')
  result = cloud.run('tpu_create.sh', folder=tmp_path)
  assert result.returncode == 2
  assert 'must be a bash file of NAME=value' in result.stderr


@pytest.mark.parametrize('name', ['tpu_create.sh', 'tpu_delete.sh'])
def test_unknown_arguments_are_refused(name, tmp_path):
  world = Cloud(tmp_path)
  result = world.run(name, '--force')
  assert result.returncode == 2
  assert result.stderr == 'error: --force: is not an argument; see --help\n'
  assert world.calls == []


@pytest.mark.parametrize(
  ('capacity', 'flag'),
  [('on-demand', None), ('spot', '--spot'), ('reserved', '--reserved')],
)
def test_capacity_is_one_flag_of_the_request(capacity, flag, tmp_path):
  world = Cloud(tmp_path, [['ACTIVE']])
  world.run('tpu_create.sh', CAPACITY=capacity, CREATE_FLAGS='--network=mine')
  (call,) = world.calls
  assert {'--spot', '--reserved'} & {*call} == ({flag} - {None})
  assert '--network=mine' in call


def test_flags_of_train_reach_the_workers_as_they_were_typed(tmp_path):
  flags = ["--config.note=it's $HOME", '--config.optimizer.peak_lr=1e-3', '']
  result = Cloud(tmp_path).run('tpu_train.sh', '--dry-run', *flags)
  (command,) = (
    word for word in shlex.split(result.stdout) if word.startswith('--command=')
  )
  assert shlex.split(command)[-3:] == flags


def test_a_revision_that_is_no_commit_is_refused(tmp_path):
  result = Cloud(tmp_path).run('tpu_setup.sh', REVISION='nowhere')
  assert result.returncode == 2
  assert 'REVISION = nowhere: is not a commit' in result.stderr


def test_logs_are_of_any_worker_and_as_long_as_wanted(tmp_path):
  result = Cloud(tmp_path).run('tpu_logs.sh', '--dry-run', '--worker=3', '-n5')
  assert '--worker=3 ' in result.stdout
  assert 'tail -n5 sparse/run/log' in result.stdout
  result = Cloud(tmp_path).run('tpu_logs.sh', '--worker=all')
  assert result.stderr == 'error: --worker = all: must be a number\n'


# Status.


@pytest.mark.parametrize(
  ('moment', 'printed'),
  [
    ('PROVISIONING', 'PROVISIONING'),
    ('ACTIVE', 'ACTIVE none'),
    ('ACTIVE/running,done', 'ACTIVE running'),
    ('ACTIVE/done,none', 'ACTIVE none'),
    ('ACTIVE/done,done', 'ACTIVE done'),
    ('ACTIVE/done,failed', 'ACTIVE failed'),
    ('ACTIVE/failed,killed', 'ACTIVE stopped'),
    ('ACTIVE/failed,lost', 'ACTIVE failed'),
    ('ACTIVE/lost,lost', 'ACTIVE stopped'),
    ('ACTIVE/failed,stopped', 'ACTIVE stopped'),
    ('ACTIVE/refused,refused', 'ACTIVE refused'),
    ('ACTIVE/unreachable', 'ACTIVE unreachable'),
    ('FAILED:out of luck', 'FAILED - out of luck'),
  ],
)
def test_status_is_one_line_for_all_workers(moment, printed, tmp_path):
  world = Cloud(tmp_path, [[moment]])
  assert world.run('tpu_status.sh').stdout == 'NONE\n'
  world.run('tpu_create.sh')
  assert world.run('tpu_status.sh').stdout == f'{printed}\n'


def test_status_does_not_take_a_failing_gcloud_for_an_absent_slice(tmp_path):
  world = Cloud(tmp_path, [['ERROR: UNAVAILABLE: try again']])
  (tmp_path / 'world').write_text(
    '{"lives": [], "life": ["ERROR: UNAVAILABLE: try again"]}'
  )
  result = world.run('tpu_status.sh')
  assert (result.returncode, result.stdout) == (1, '')
  assert 'UNAVAILABLE: try again' in result.stderr


# The supervisor's life.


def test_supervisor_resumes_over_two_preemptions(tmp_path):
  world = Cloud(
    tmp_path,
    [
      ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE', 'ACTIVE']
      + ['SUSPENDING', 'SUSPENDED'],
      ['ACTIVE', 'ACTIVE', 'SUSPENDED'],
      ['ACTIVE', 'ACTIVE', 'ACTIVE/done,done'],
    ],
  )
  result = world.run('tpu_supervise.sh', '--config.seed=3')
  life = ['create', 'scp', 'worker_setup', 'worker_train', 'delete']
  assert (result.returncode, result.stderr) == (0, '')
  assert world.verbs == life * 3
  trained = [c for c in world.calls if 'worker_train' in str(c)]
  # The same command each time, and the same commit.
  assert trained[0] == trained[1] == trained[2]
  assert '--config.seed=3' in str(trained[0])


def test_supervisor_takes_up_a_job_that_is_running(tmp_path):
  world = Cloud(tmp_path, [['ACTIVE', 'ACTIVE/running', 'ACTIVE/done']])
  world.run('tpu_create.sh')
  world.run('tpu_status.sh')
  assert world.run('tpu_supervise.sh').returncode == 0
  assert world.verbs == ['create', 'delete']


def test_supervisor_starts_a_job_that_failed_before_it_began(tmp_path):
  world = Cloud(tmp_path, [['ACTIVE', 'ACTIVE/refused', 'ACTIVE/done']])
  world.run('tpu_create.sh')
  world.run('tpu_status.sh')
  assert world.run('tpu_supervise.sh').returncode == 0
  assert world.verbs[1:] == ['scp', 'worker_setup', 'worker_train', 'delete']


def test_supervisor_sends_the_commit_it_was_started_with(tmp_path):
  world = Cloud(tmp_path, [['ACTIVE', 'ACTIVE/done']])
  git = shutil.which('git')
  cloud.make_tool(tmp_path, 'git', f'echo "$@" >>WORLD/git\nexec {git} "$@"\n')
  world.run('tpu_supervise.sh')
  head = subprocess.check_output([git, '-C', ROOT, 'rev-parse', 'HEAD'])
  archived = (tmp_path / 'git').read_text().splitlines()
  (line,) = (line for line in archived if 'archive' in line)
  assert line.split()[-1] == head.decode().strip()


@pytest.mark.slow
@pytest.mark.parametrize(
  ('word', 'status', 'line'),
  [
    ('failed', 1, 'the job failed'),
    ('refused', 2, 'train refused its flags or config'),
  ],
)
def test_supervisor_stops_at_a_job_that_cannot_go_on(
  word, status, line, tmp_path
):
  world = Cloud(tmp_path, [['ACTIVE', 'ACTIVE', f'ACTIVE/{word},{word}']])
  result = world.run('tpu_supervise.sh')
  assert result.returncode == status
  said, last = result.stdout.splitlines()[-2:]
  assert said == '(the last lines of its log)'
  assert last.endswith(line)
  assert world.verbs[-2:] == ['tail', 'delete']


def test_supervisor_starts_a_stopped_job_again_on_the_same_slice(tmp_path):
  world = Cloud(
    tmp_path, [['ACTIVE', 'ACTIVE/stopped,killed', 'ACTIVE/done,done']]
  )
  assert world.run('tpu_supervise.sh').returncode == 0
  start = ['scp', 'worker_setup', 'worker_train']
  assert world.verbs == ['create', *start, *start, 'delete']
  assert world.sleeps == [30]


@pytest.mark.parametrize(
  'life', [[f'ERROR: {QUOTA}'], [f'FAILED:{QUOTA}']], ids=['asked', 'later']
)
def test_supervisor_stops_at_a_quota(life, tmp_path):
  world = Cloud(tmp_path, [life])
  result = world.run('tpu_supervise.sh')
  assert result.returncode == 1
  last = result.stdout.splitlines()[-1]
  assert 'no quota for v5litepod-16, spot, in us-west4-a: ' in last
  assert QUOTA in last
  assert world.sleeps == []
  # What failed would take up quota.
  assert world.verbs == ['create', 'delete'][: 1 + life[0].startswith('FAILED')]


@pytest.mark.parametrize(
  'why',
  [
    'ERROR: INVALID_ARGUMENT: no such accelerator type',
    'ERROR: PERMISSION_DENIED: who are you',
    'ERROR 2: argument --accelerator-type: Must be specified.',
  ],
)
def test_supervisor_stops_at_a_request_that_is_refused(why, tmp_path):
  world = Cloud(tmp_path, [[why]])
  result = world.run('tpu_supervise.sh')
  assert result.returncode == 2
  assert 'the request is refused: ERROR: ' in result.stdout
  assert why.partition(': ')[2] in result.stdout
  assert world.sleeps == []


def test_supervisor_stops_at_flags_that_gcloud_does_not_know(tmp_path):
  world = Cloud(tmp_path)
  result = world.run('tpu_supervise.sh', CREATE_FLAGS='--spott')
  assert result.returncode == 2
  assert 'unrecognized arguments: --spott' in result.stdout.splitlines()[-1]


def test_back_off_doubles_up_to_a_limit_of_time_and_of_attempts(tmp_path):
  errors = [
    ['ERROR: UNAVAILABLE: later'],
    ["ERROR: RESOURCE_EXHAUSTED: Quota exceeded for requests 'per minute'"],
    ['SUSPENDED'],
    ['FAILED:no capacity before valid-until'],
    ['ERROR: INTERNAL: EID 0x1'],
  ]
  world = Cloud(tmp_path, errors)
  result = world.run(
    'tpu_supervise.sh', MAX_ATTEMPTS=4, BACKOFF_MAX_SECONDS=100
  )
  assert result.returncode == 1
  assert world.sleeps == [30, 60, 100, 100]
  assert result.stdout.splitlines()[-1].endswith(
    'giving up: the request failed, after 4 attempts in a row'
  )


@pytest.mark.slow
def test_a_job_that_ran_for_long_pays_back_its_attempts(tmp_path):
  lives = [['ACTIVE', 'ACTIVE', 'ACTIVE', 'SUSPENDED']] * 2
  world = Cloud(tmp_path, [*lives, ['ACTIVE/done']])
  result = world.run(
    'tpu_supervise.sh', MAX_ATTEMPTS=1, POLL_SECONDS=900, HEALTHY_SECONDS=900
  )
  assert result.returncode == 0
  assert [s for s in world.sleeps if s != 900] == [30, 30]


@pytest.mark.slow
def test_supervisor_waits_for_workers_that_cannot_be_reached(tmp_path):
  world = Cloud(
    tmp_path,
    [
      ['ACTIVE', 'ACTIVE/unreachable', 'ERROR: UNAVAILABLE: x']
      + ['ACTIVE/running', 'ACTIVE/done']
    ],
  )
  assert world.run('tpu_supervise.sh').returncode == 0
  assert world.sleeps == [30, 60, 60]
  assert world.verbs.count('worker_train') == 1


def test_supervisor_tries_again_what_did_not_start(tmp_path):
  world = Cloud(tmp_path, [['ACTIVE/broken', 'ACTIVE', 'ACTIVE/done']])
  result = world.run('tpu_supervise.sh')
  assert result.returncode == 0
  assert 'the disk is full' in result.stderr
  assert 'the job did not start; attempt 1 of 8' in result.stdout
  start = ['scp', 'worker_setup', 'worker_train']
  assert world.verbs == ['create', 'scp', *start, 'delete']


def test_stopped_supervisor_leaves_the_job_alone(tmp_path):
  world = Cloud(tmp_path, [['ACTIVE', 'ACTIVE']])
  cloud.make_tool(tmp_path, 'sleep', 'kill -TERM $PPID')
  result = world.run('tpu_supervise.sh')
  assert result.returncode == 130
  assert 'the job goes on without me' in result.stdout.splitlines()[-1]
  assert world.verbs == ['create', 'scp', 'worker_setup', 'worker_train']


def test_supervisor_needs_a_workdir_that_outlives_the_slice(tmp_path):
  world = Cloud(tmp_path)
  result = world.run('tpu_supervise.sh', WORKDIR='/home/me/run')
  assert result.returncode == 2
  assert result.stderr.startswith('error: WORKDIR = /home/me/run: must be gs:')
  assert world.calls == []


def test_supervisor_says_at_once_that_gcloud_does_not_work(tmp_path):
  world = Cloud(tmp_path)
  cloud.make_tool(tmp_path, 'gcloud', 'echo "gcloud auth login" >&2; exit 1')
  result = world.run('tpu_supervise.sh')
  assert result.returncode == 1
  assert 'gcloud auth login' in result.stderr
  assert world.sleeps == []


@pytest.mark.slow
def test_transcript_of_the_readme_is_what_the_supervisor_says():
  readme = (LAUNCH / 'README.md').read_text()
  (shown,) = re.findall(r'```\n(2026-.*?)```', readme, re.DOTALL)
  assert shown == supervisor_transcript.transcript()


# On a worker, for real.


@pytest.fixture
def worker(tmp_path):
  """sparse/ on a worker, whose Python runs the code in sparse/python."""
  base = tmp_path / 'sparse'
  (base / 'code').mkdir(parents=True)
  shutil.copytree(LAUNCH, base / 'code' / 'launch')
  (base / 'venv' / 'bin').mkdir(parents=True)
  (base / 'run').mkdir()
  return base


def set_train(worker: pathlib.Path, code: str) -> None:
  python = worker / 'venv' / 'bin' / 'python'
  python.write_text(f'#!/bin/bash\n{code}\n')
  python.chmod(0o755)


def on_worker(worker: pathlib.Path, script: str, *args: str, **env: str) -> str:
  return subprocess.run(
    ['bash', worker / 'code' / 'launch' / script, *args],
    env={'PATH': os.environ['PATH'], 'TMUX_TMPDIR': '/nonexistent'} | env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=120,
  ).stdout.strip()


@pytest.mark.parametrize(
  ('status', 'word'),
  [
    (0, 'done'),
    (1, 'failed'),
    (2, 'refused'),
    (69, 'lost'),
    (70, 'failed'),
    (75, 'stopped'),
    (137, 'killed'),
  ],
)
def test_exit_status_of_train_is_kept_as_a_word(status, word, worker):
  set_train(worker, f'echo "$@"; exit {status}')
  on_worker(worker, 'worker_run.sh', '--config=a b')
  assert on_worker(worker, 'worker_status.sh') == word
  log = (worker / 'run' / 'log').read_text()
  assert log == '-m jax_sparse_pretrain.train --config=a b\n'


def test_worker_that_was_restarted_or_is_new_says_so(worker):
  assert on_worker(worker, 'worker_status.sh') == 'killed'
  (worker / 'run').rmdir()
  assert on_worker(worker, 'worker_status.sh') == 'none'


def test_worker_makes_its_environment_once_and_pins_it(worker, tmp_path):
  make_venv = (
    'if [[ $1 == venv ]]; then mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; fi'
  )
  for name in ('python3', 'uv', 'tmux'):
    cloud.make_tool(tmp_path, name, f'echo {name} "$@"; {make_venv}')
  shutil.rmtree(worker / 'venv')
  env = {'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}', 'HOME': str(tmp_path)}
  install = [
    'python3 -m pip install --quiet --user uv==0.13.9',
    'uv pip install --python ../venv/bin/python --quiet '
    '--constraint launch/constraints.txt --editable .[gcs,tpu]',
  ]
  first = on_worker(worker, 'worker_setup.sh', **env).splitlines()
  assert first == [install[0], 'uv venv --python 3.12 ../venv', install[1]]
  assert on_worker(worker, 'worker_setup.sh', **env).splitlines() == install


@pytest.mark.skipif(not shutil.which('tmux'), reason='tmux is not installed')
def test_job_in_tmux_saves_when_the_machine_is_shut_down(worker):
  marks = worker / 'run'
  set_train(
    worker,
    # As train does: saves at TERM, which takes a while, and leaves with 75.
    f'trap "sleep 1; touch {marks}/saved; exit 75" TERM\n'
    f'printf "%s\\n" "$@" >{marks}/got; echo $$ $PPID >{marks}/pids\n'
    'for _ in {1..2000}; do sleep 0.05; done',  # No longer than the test.
  )
  (marks / 'status').write_text('0\n')  # Of a job before.
  with tempfile.TemporaryDirectory() as sockets:  # Whose paths must be short.

    def call(script, *args):
      return on_worker(worker, script, *args, TMUX_TMPDIR=sockets)

    call('worker_train.sh', "--config.note=it's me", '--config.seed=1')
    wait_for(marks / 'pids')
    assert call('worker_status.sh') == 'running'
    assert 'running' in call('worker_train.sh')
    assert not (marks / 'status').exists()
    assert (marks / 'got').read_text().splitlines() == [
      '-m',
      'jax_sparse_pretrain.train',
      "--config.note=it's me",
      '--config.seed=1',
    ]
    # Everybody gets TERM, and tmux, going, hangs up on the rest.
    pids = [int(pid) for pid in (marks / 'pids').read_text().split()]
    for pid in pids:
      os.kill(pid, signal.SIGTERM)
    subprocess.run(
      ['tmux', '-L', 'sparse', 'kill-server'],
      env=os.environ | {'TMUX_TMPDIR': sockets},
    )
    wait_for(marks / 'status')
    assert call('worker_status.sh') == 'stopped'
  assert (marks / 'saved').exists()


def wait_for(path: pathlib.Path) -> None:
  deadline = time.monotonic() + 60
  while not path.exists():
    assert time.monotonic() < deadline, f'{path} did not appear'
    time.sleep(0.05)


# Slurm.


def directives(name: str) -> dict[str, str]:
  """The options of the #SBATCH lines; '' for those without a value."""
  lines = re.findall(r'^#SBATCH (.*)$', (LAUNCH / name).read_text(), re.M)
  return dict(line.removeprefix('--').partition('=')[::2] for line in lines)


def run_sbatch(folder, name, *args, status=0, **env):
  """Runs a batch script where srun ends with a status; returns what it ran."""
  (folder / 'calls').write_text('')
  cloud.make_tool(
    folder,
    'srun',
    'echo "srun $@" >>WORLD/calls\n'
    'echo "$JAX_LOCAL_DEVICE_IDS|$SRUN_CPUS_PER_TASK" >WORLD/env\n'
    f'exit {status}',
  )
  cloud.make_tool(folder, 'scontrol', 'echo "scontrol $@" >>WORLD/calls')
  env = {'SLURM_JOB_ID': '17', 'SLURM_SUBMIT_DIR': str(ROOT)} | env
  result = cloud.run(name, *args, folder=folder, **env)
  return result, (folder / 'calls').read_text().splitlines()


@pytest.mark.parametrize('name', SBATCH)
def test_slurm_warns_the_processes_early_and_requeues(name):
  options = directives(name)
  # Without 'B:' the processes of the job get it, not the script.
  assert options['signal'] == 'TERM@300'
  assert options['requeue'] == ''
  assert options['open-mode'] == 'append'


def test_slurm_job_has_a_process_for_every_gpu():
  options = directives('slurm_train.sbatch')
  assert options['ntasks-per-node'] == options['gpus-per-node'] == '8'
  # Under which JAX would look for GPU 1 where only one is seen.
  assert 'gpus-per-task' not in options


@pytest.mark.parametrize('name', SBATCH)
@pytest.mark.parametrize(
  'status, restarts, requeues',
  [
    *((status, '0', False) for status in (0, 1, 2, 137)),
    *((75, restarts, True) for restarts in ('0', '99')),
    *((69, restarts, restarts == '4') for restarts in ('4', '5')),
  ],
)
def test_slurm_requeues_a_job_that_was_stopped_or_lost_a_process(
  name, status, restarts, requeues, tmp_path
):
  result, calls = run_sbatch(
    tmp_path,
    name,
    '--workdir=a b',
    status=status,
    SLURM_RESTART_COUNT=restarts,
  )
  assert result.returncode == status
  assert calls[0].startswith('srun --kill-on-bad-exit=0 python -m jax_sparse')
  assert calls[0].endswith('--workdir=a b')
  assert calls[1:] == ['scontrol requeue 17'] * requeues


def test_slurm_process_of_a_whole_node_gets_all_its_gpus(tmp_path):
  run_sbatch(
    tmp_path,
    'slurm_train.sbatch',
    SLURM_NTASKS_PER_NODE='1',
    SLURM_GPUS_ON_NODE='4',
    SLURM_CPUS_PER_TASK='32',
  )
  assert (tmp_path / 'env').read_text() == '0,1,2,3|32\n'
  run_sbatch(tmp_path, 'slurm_train.sbatch', SLURM_NTASKS_PER_NODE='4')
  assert (tmp_path / 'env').read_text() == '|8\n'


def array(first: int, last: int, index: int) -> dict[str, str]:
  count = last - first + 1
  names = ('MIN', 'MAX', 'COUNT', 'ID')
  values = map(str, (first, last, count, index))
  return dict(
    zip([f'SLURM_ARRAY_TASK_{n}' for n in names], values, strict=True)
  )


def test_slurm_array_shares_out_a_sweep(tmp_path):
  _, (call,) = run_sbatch(tmp_path, 'slurm_sweep.sbatch', **array(0, 3, 2))
  assert call.endswith('.sweep --index=2 --count=4')
  result, calls = run_sbatch(tmp_path, 'slurm_sweep.sbatch', **array(1, 4, 2))
  assert (result.returncode, calls) == (2, [])
  assert result.stderr.startswith('error: --array: must be 0-N')


@pytest.mark.parametrize(
  ('name', 'module'),
  [
    ('slurm_train.sbatch', 'train'),
    ('slurm_sweep.sbatch', 'sweep --index=0 --count=8'),
  ],
)
def test_slurm_dry_run_prints_the_commands_and_runs_none(
  name, module, tmp_path
):
  result, calls = run_sbatch(tmp_path, name, '--dry-run', '--config=a.py')
  assert calls == []
  assert result.stdout.splitlines() == [
    'srun --kill-on-bad-exit=0 python -m '
    f'jax_sparse_pretrain.{module} --config=a.py',
    '# and if that ends with status 75 or 69:',
    'scontrol requeue 17',
  ]


# Kubernetes and Docker.


@pytest.fixture
def job_set():
  settings = (LAUNCH / 'env.example.sh').read_text()
  values = dict(re.findall(r'^(\w+)=(\S*)', settings, re.M))
  text = (LAUNCH / 'gke_job.yaml').read_text()
  text = '\n'.join(x for x in text.splitlines() if not x.startswith('#'))
  return yaml.safe_load(string.Template(text).substitute(values))


def test_gke_job_is_one_slice_with_a_pod_for_every_node(job_set):
  assert job_set['kind'] == 'JobSet'
  assert job_set['metadata']['name'] == 'sparse-58m'
  (slices,) = job_set['spec']['replicatedJobs']
  job = slices['template']['spec']
  pod = job['template']['spec']
  rows, columns = pod['nodeSelector'][
    'cloud.google.com/gke-tpu-topology'
  ].split('x')
  (container,) = pod['containers']
  chips = container['resources']['limits']['google.com/tpu']
  assert job['parallelism'] == job['completions']
  assert job['parallelism'] * chips == int(rows) * int(columns)
  assert container['args'] == [
    '--config=configs/c4_58m.py',
    '--workdir=gs://my-bucket/runs/c4_58m',
  ]


def test_gke_job_starts_again_as_often_as_it_is_preempted_or_stopped(job_set):
  policy = job_set['spec']['failurePolicy']
  assert policy['rules'] == [
    {
      'action': 'RestartJobSetAndIgnoreMaxRestarts',
      'onJobFailureReasons': ['PodFailurePolicy'],
    }
  ]
  assert 0 < policy['maxRestarts'] < 10
  job = job_set['spec']['replicatedJobs'][0]['template']['spec']
  assert job['backoffLimit'] == 0
  disrupted, stopped = job['podFailurePolicy']['rules']
  assert disrupted['action'] == stopped['action'] == 'FailJob'
  assert disrupted['onPodConditions'] == [
    {'type': 'DisruptionTarget', 'status': 'True'}
  ]
  codes = stopped['onExitCodes']
  assert (codes['operator'], codes['values']) == ('In', [command_line.STOPPED])
  pod = job['template']['spec']
  # Which podFailurePolicy asks for.
  assert pod['restartPolicy'] == 'Never'
  assert codes['containerName'] == pod['containers'][0]['name']


@pytest.fixture(scope='module')
def package():
  """The arguments of setup() in setup.py."""
  given = {}
  stand_in = types.ModuleType('setuptools')
  stand_in.setup = given.update
  stand_in.find_packages = lambda **_: []
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, 'setuptools', stand_in)
    runpy.run_path(str(ROOT / 'setup.py'))
  return given


def dockerfile() -> str:
  return (LAUNCH / 'Dockerfile').read_text().replace('\\\n', '')


@pytest.mark.parametrize('name', ['cpu', 'gpu', 'tpu', 'npu'])
def test_docker_build_argument_picks_an_extra_of_setup(name, package, tmp_path):
  (command,) = re.findall(r'^RUN (.*)$', dockerfile(), re.M)
  cloud.make_tool(tmp_path, 'pip', 'echo "${*: -1}"')
  result = subprocess.run(
    ['sh', '-c', command],
    env={'PATH': f'{tmp_path}/bin:/usr/bin:/bin', 'ACCELERATOR': name},
    capture_output=True,
    text=True,
  )
  if name == 'npu':
    assert result.returncode == 2
    assert 'ACCELERATOR = npu: must be cpu, gpu or tpu' in result.stdout
  elif name == 'cpu':
    assert result.stdout == '.[gcs]\n'
  else:
    assert result.stdout == f'.[gcs,{name}]\n'
    assert name in package['extras_require']


def test_docker_image_is_cpu_unless_told_and_copies_what_exists():
  text = dockerfile()
  assert 'ARG ACCELERATOR=cpu' in text
  for line in re.findall(r'^COPY (.*)$', text, re.M):
    for source in line.split()[:-1]:
      assert (ROOT / source).exists(), source
  (entry,) = re.findall(r'^ENTRYPOINT (.*)$', text, re.M)
  assert ast.literal_eval(entry) == [
    'python',
    '-m',
    'jax_sparse_pretrain.train',
  ]


def test_constraints_pin_what_setup_asks_for(package):
  lines = (LAUNCH / 'constraints.txt').read_text().splitlines()
  pins = dict(line.split('==') for line in lines if not line.startswith('#'))
  extras = package['extras_require']
  wanted = [*package['install_requires'], *extras['gpu'], *extras['tpu']]
  for text in wanted:
    requirement = Requirement(text)
    version = pins[requirement.name.lower().replace('_', '-')]
    assert version in requirement.specifier, text
