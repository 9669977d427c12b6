"""Peak speeds, for model FLOP utilisation."""

from jax.sharding import Mesh

# Dense bfloat16 FLOP/s of one JAX device, from the makers' data sheets.
# Matched as substrings of `jax.Device.device_kind`, first match wins.
PEAK_FLOPS = {
  'B200': 2.25e15,
  'H200': 989e12,
  'H100 PCIe': 756e12,
  'H100 NVL': 835e12,
  'H100': 989e12,
  'A100': 312e12,
  'TPU v6 lite': 918e12,
  'TPU v5p': 459e12,
  'TPU v5 lite': 197e12,
  'TPU v5': 459e12,
  'TPU v4': 275e12,
}


def peak_flops(device_kind: str) -> float | None:
  """Peak of one device, or None for one that is not in the table."""
  matches = (v for k, v in PEAK_FLOPS.items() if k in device_kind)
  return next(matches, None)


def peak_of_mesh(mesh: Mesh, given: float = 0.0) -> float | None:
  """Peak of all devices: of one as given, or as the table has it."""
  peak = given or peak_flops(mesh.devices.flat[0].device_kind)
  return peak and peak * mesh.size
