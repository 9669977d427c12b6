"""A stand-in for gcloud: a cloud in a folder that plays given lives.

A *life* is what one queued resource goes through: a list of moments, one for
each time that somebody asks for its state; the last one stays. A moment is
  'SUSPENDED', say: a state;
  'ACTIVE': the slice is there, and its workers say none, or running once the
    job is started; 'ACTIVE/done,failed': what they say; 'ACTIVE/unreachable':
    ssh fails; 'ACTIVE/broken': all but the look at their status fails;
  'FAILED:why';
  'ERROR: why': gcloud itself fails.
A life that begins with an error is a request that is refused; 'ERROR 2: why'
gives the exit status.
"""

# Started for every call, so with few imports.
import json
import sys

WORKERS = 4
# Required and other flags, from `gcloud compute tpus ... --help`, 528.0.0.
ALWAYS = {'--project', '--zone', '--quiet'}
FLAGS = {
  'queued-resources create': (
    {'--node-id', '--accelerator-type', '--runtime-version'},
    {'--spot', '--reserved', '--network', '--service-account'},
  ),
  'queued-resources describe': (set(), {'--format'}),
  'queued-resources delete': (set(), {'--force'}),
  'tpu-vm ssh': (set(), {'--worker', '--command'}),
  'tpu-vm scp': (set(), {'--worker'}),
}
SECONDS = {'create': 10, 'delete': 45, 'scp': 8, 'worker_setup': 110}


def verb_of(call):
  """['compute', 'tpus', 'queued-resources', 'create', ...] -> 'create'.

  For a command on workers, its script or program.
  """
  remote = next((a for a in call if a.startswith('--command=')), '')
  programs = ('worker_setup', 'worker_train', 'worker_status', 'tail')
  return next((name for name in programs if name in remote), call[3])


class Refused(Exception):
  """What gcloud prints, and its exit status."""


def refuse(call, why, status=1):
  raise Refused(f'ERROR: ({".".join(["gcloud", *call[:4]])}) {why}', status)


def check_flags(call):
  required, others = FLAGS[' '.join(call[2:4])]
  given = {word.split('=')[0] for word in call if word.startswith('--')}
  for flag in sorted(given - required - others - ALWAYS):
    refuse(call, f'unrecognized arguments: {flag}', 2)
  for flag in sorted((required | ALWAYS) - given):
    refuse(call, f'argument {flag}: Must be specified.', 2)


def answer(world, call):
  """Changes the world and returns what gcloud prints."""
  check_flags(call)
  verb = verb_of(call)
  if verb == 'create':
    life = world['lives'].pop(0)
    if life[0].startswith('ERROR'):
      kind, _, why = life[0].partition(': ')
      refuse(call, why, int(kind[5:] or 1))
    world.update(life=life, now='CREATING', started=False)
  elif world['life'] is None:
    refuse(call, "NOT_FOUND: Resource 'queuedResources/x' was not found")
  elif verb == 'describe':
    life = world['life']
    world['now'] = life.pop(0) if len(life) > 1 else life[0]
    if world['now'].startswith('ERROR: '):
      refuse(call, world['now'][7:])
    state, _, why = world['now'].partition(':')
    return state.partition('/')[0] + '\t' + why
  elif verb == 'delete':
    world['life'] = None
  else:
    return on_workers(world, call, verb)
  return ''


def on_workers(world, call, verb):
  state, _, said = world['now'].partition('/')
  if state != 'ACTIVE' or said == 'unreachable':
    refuse(call, 'ssh: connect to host: Connection timed out', 255)
  if verb == 'worker_status':
    word = 'running' if world['started'] else 'none'
    given = said.split(',') if said not in ('', 'broken') else [word] * WORKERS
    return '\n'.join(given)
  if said == 'broken':
    refuse(call, 'the disk is full')
  if verb == 'worker_train':
    world['started'] = True
  elif verb == 'tail':
    return '(the last lines of its log)'
  return ''


def main(folder, call):
  with open(f'{folder}/calls', 'a') as file:
    print(json.dumps(['gcloud', *call]), file=file)
  with open(f'{folder}/world') as file:
    world = json.load(file)
  with open(f'{folder}/clock') as file:
    clock = int(file.read())
  status = 0
  try:
    printed = answer(world, call)
    if printed:
      print(printed)
  except Refused as refused:
    message, status = refused.args
    print(message, file=sys.stderr)
  with open(f'{folder}/world', 'w') as file:
    json.dump(world, file)
  with open(f'{folder}/clock', 'w') as file:
    file.write(str(clock + SECONDS.get(verb_of(call), 0)))
  return status


if __name__ == '__main__':
  sys.exit(main(sys.argv[1], sys.argv[2:]))
