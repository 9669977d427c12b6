"""Eight fake CPU devices, unless the caller has chosen devices."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_force_host_platform_device_count=8 '
  # Two cores compile small test programs faster than they run optimised ones.
  '--xla_backend_optimization_level=0',
)
