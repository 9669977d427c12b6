"""Prints what tpu_supervise.sh says of a job that is preempted twice.

gcloud, sleep and date are stand-ins; the scripts are those of launch/.
"""

import pathlib
import tempfile

from cloud import Cloud

LIVES = (
  ['WAITING_FOR_RESOURCES', 'PROVISIONING', *['ACTIVE'] * 8, 'SUSPENDED'],
  ['WAITING_FOR_RESOURCES', 'ACTIVE', 'ACTIVE', 'SUSPENDING', 'SUSPENDED'],
  ['ACTIVE', 'ACTIVE', 'ACTIVE', 'ACTIVE/done,done,done,done'],
)


def transcript() -> str:
  with tempfile.TemporaryDirectory() as folder:
    cloud = Cloud(pathlib.Path(folder), LIVES)
    return cloud.run('tpu_supervise.sh', POLL_SECONDS=300).stdout


if __name__ == '__main__':
  print(transcript(), end='')
