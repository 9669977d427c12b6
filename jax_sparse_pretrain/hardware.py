"""What one JAX device can do and hold, from the makers' data sheets."""

from typing import NamedTuple

from jax.sharding import Mesh

GIB = 1 << 30


class Chip(NamedTuple):
  """One JAX device.

  Attributes:
    peak_flops: FLOP/s in dense bfloat16.
    memory: bytes, of which the runtime takes a part.
    source: where these numbers are published.
  """

  peak_flops: float
  memory: int
  source: str


_TPU = 'https://docs.cloud.google.com/tpu/docs/'
_NVIDIA = 'https://www.nvidia.com/en-us/data-center/'

# The first key that is a part of `jax.Device.device_kind` names the chip.
CHIPS = {
  'B200': Chip(2.25e15, 180 * GIB, f'{_NVIDIA}dgx-b200/'),
  'H200': Chip(989e12, 141 * GIB, f'{_NVIDIA}h200/'),
  'H100 PCIe': Chip(756e12, 80 * GIB, f'{_NVIDIA}h100/'),
  'H100 NVL': Chip(835e12, 94 * GIB, f'{_NVIDIA}h100/'),
  'H100': Chip(989e12, 80 * GIB, f'{_NVIDIA}h100/'),
  'A100-SXM4-80GB': Chip(312e12, 80 * GIB, f'{_NVIDIA}a100/'),
  'A100 80GB': Chip(312e12, 80 * GIB, f'{_NVIDIA}a100/'),
  'A100': Chip(312e12, 40 * GIB, f'{_NVIDIA}a100/'),
  'TPU v6 lite': Chip(918e12, 32 * GIB, f'{_TPU}v6e'),
  'TPU v5p': Chip(459e12, 95 * GIB, f'{_TPU}v5p'),
  'TPU v5 lite': Chip(197e12, 16 * GIB, f'{_TPU}v5e'),
  'TPU v5': Chip(459e12, 95 * GIB, f'{_TPU}v5p'),
  'TPU v4': Chip(275e12, 32 * GIB, f'{_TPU}v4'),
}


def chip_of(device_kind: str) -> Chip | None:
  """The chip, or None if it is not in the table."""
  return next((chip for k, chip in CHIPS.items() if k in device_kind), None)


def peak_flops(device_kind: str) -> float | None:
  """Peak FLOP/s of one device, or None if it is not in the table."""
  chip = chip_of(device_kind)
  return chip and chip.peak_flops


def peak_of_mesh(mesh: Mesh, given: float = 0.0) -> float | None:
  """Peak FLOP/s of all devices, from that of one: as given, or the table's."""
  peak = given or peak_flops(mesh.devices.flat[0].device_kind)
  return peak and peak * mesh.size
