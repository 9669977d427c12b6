"""How a process ends; schedulers and the scripts in `launch/` read it."""

FAILED = 1  # In every process of the run.
BAD_INPUT = 2
LOST = (
  69  # Others are missing: to be started again. EX_UNAVAILABLE of sysexits.
)
FAILED_ALONE = 70  # In this process of several. EX_SOFTWARE.
STOPPED = 75  # On request, the state saved: to be started again. EX_TEMPFAIL.
