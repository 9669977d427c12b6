"""Devices by name, without having them.

`v5e-16` is a slice as Cloud TPU names it, described by libtpu where that is
installed. `cpu-256` is fake devices. Call `devices` before anything in the
process touches a device, since it decides how many the process sees.
"""

import contextlib
import importlib.util
import os
import re
from typing import NamedTuple

import jax

from jax_sparse_pretrain import hardware
from jax_sparse_pretrain.config import ConfigError

# Chips of a slice -> its shape (https://docs.cloud.google.com/tpu/docs).
_PLANES = {
  1: '1x1',
  4: '2x2',
  8: '2x4',
  16: '4x4',
  32: '4x8',
  64: '8x8',
  128: '8x16',
  256: '16x16',
}
_CUBES = {
  4: '2x2x1',
  8: '2x2x2',
  16: '2x2x4',
  32: '2x4x4',
  64: '4x4x4',
  128: '4x4x8',
  256: '4x8x8',
  512: '8x8x8',
  1024: '8x8x16',
  2048: '8x16x16',
}
_LARGER_CUBES = {4096: '16x16x16', 6144: '16x16x24'}


# Generation -> jax.Device.device_kind, what the number in a name counts for
# each chip (1: chips, 2: TensorCores), and the slices.
_GENERATIONS = {
  'v4': ('TPU v4', 2, _CUBES),
  'v5e': ('TPU v5 lite', 1, _PLANES),
  'v5p': ('TPU v5', 2, {**_CUBES, **_LARGER_CUBES}),
  'v6e': ('TPU v6 lite', 1, _PLANES),
}
MOST_FAKE = 1024  # each fake device has threads of its own


class Topology(NamedTuple):
  """Devices that a run is compiled for.

  Attributes:
    name: the name that was given.
    n_devices: number of JAX devices.
    kind: the chip's `jax.Device.device_kind`; None for `cpu-N`.
    layout: libtpu's name of the slice; None for `cpu-N`.
    is_fake: whether XLA compiles for CPU, on fake devices.
  """

  name: str
  n_devices: int
  kind: str | None
  layout: str | None
  is_fake: bool

  @property
  def chip(self) -> hardware.Chip | None:
    return self.kind and hardware.chip_of(self.kind)


def parse_topology(name: str) -> Topology:
  """'v5e-16', 'cpu-256', ... -> topology.

  Raises:
    ConfigError: saying what is allowed.
  """
  match = re.fullmatch(r'([a-z0-9]+)-([1-9]\d*)', name)
  family, n = (match[1], int(match[2])) if match else (None, 0)
  if family == 'cpu':
    if n <= MOST_FAKE:
      return Topology(name, n, None, None, is_fake=True)
    allowed = f'cpu-N with N from 1 to {MOST_FAKE:,}'
  elif family in _GENERATIONS:
    kind, each, slices = _GENERATIONS[family]
    chips, rest = divmod(n, each)
    if chips in slices and not rest:
      layout = f'{family}:{slices[chips]}'
      return Topology(name, chips, kind, layout, not has_libtpu())
    sizes = ', '.join(str(chips * each) for chips in slices)
    allowed = f'{family}-N with N one of {sizes}'
  else:
    allowed = f'{", ".join(f"{f}-N" for f in _GENERATIONS)} or cpu-N'
  raise ConfigError(f'--topology = {name}: must be {allowed}')


def has_libtpu() -> bool:
  """Whether the compiler of TPUs is installed."""
  return importlib.util.find_spec('libtpu') is not None


def devices(topology: Topology) -> list[jax.Device]:
  """The devices to compile for; they hold no arrays and run nothing.

  Raises:
    ConfigError: if this process has already started with fewer devices.
  """
  if topology.is_fake:
    return _fake_devices(topology.n_devices)
  _fake_devices(1)  # Beside them, JAX starts on this machine's CPU alone.
  return _tpu_devices(topology)


def _fake_devices(n: int) -> list[jax.Device]:
  # Refused once a device has been touched, as inside a test; the devices there
  # are must do then.
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', n)
    jax.config.update('jax_platforms', 'cpu')
  found = jax.devices('cpu')
  if len(found) < n:
    raise ConfigError(
      f'--topology: needs {n} fake devices; JAX has already started with '
      f'{len(found)}'
    )
  return found[:n]


def _tpu_devices(topology: Topology) -> list[jax.Device]:
  from jax.experimental import topologies

  # Keeps libtpu from looking for a TPU and saying that there is none.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', topology.name)
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  # Otherwise libtpu serves one process at a time, and a run may hold it.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  options = {}
  if topology.n_devices == 1:
    options['chips_per_host_bounds'] = (1, 1, 1)
  if topology.layout.startswith(('v4', 'v5p')):
    options['chip_config_name'] = 'megacore'  # one JAX device a chip
  return topologies.get_topology_desc(
    platform='tpu', topology_name=topology.layout, **options
  ).devices
