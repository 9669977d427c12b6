"""Pictures of runs and laws: values in, a matplotlib Figure out.

The modules `*_picture` draw; all take their colours, figures and axes from
`style`. They fit nothing, and read nothing but the files of the run that
`training_picture` draws. Only this room imports matplotlib; it never
imports pyplot, so it needs no display and leaves the user's backend alone.
"""

import contextlib
import os
import sys

if 'matplotlib' not in sys.modules:
  # It cannot be imported under a backend that it does not know, and a picture
  # must not fail the run that it shows.
  backend = os.environ.pop('MPLBACKEND', None)
  import matplotlib

  if backend is not None:
    os.environ['MPLBACKEND'] = backend
    with contextlib.suppress(ValueError):
      matplotlib.rcParams['backend'] = backend
