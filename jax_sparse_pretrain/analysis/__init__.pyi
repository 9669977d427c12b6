"""The public names, for type checkers and the API pages."""

from ..planning import Plan as Plan
from ..planning import plan as plan
from .averages import (
  Average as Average,
)
from .averages import (
  average_parameters as average_parameters,
)
from .averages import (
  planned_average as planned_average,
)
from .comparison.compare import compare_laws as compare_laws
from .comparison.results import Comparison as Comparison
from .contrasts import Contrast as Contrast
from .contrasts import contrast_runs as contrast_runs
from .effective import EFFECTIVE as EFFECTIVE
from .effective import Effective as Effective
from .fitting.bootstrap import Bootstrap as Bootstrap
from .fitting.fit import (
  ScalingLawFit as ScalingLawFit,
)
from .fitting.fit import (
  fit_runs as fit_runs,
)
from .fitting.fit import (
  fit_scaling_law as fit_scaling_law,
)
from .fitting.law import (
  ScalingLaw as ScalingLaw,
)
from .fitting.law import (
  simulate_runs as simulate_runs,
)
from .loading import load_runs as load_runs
from .next_runs import RunPlans as RunPlans
from .next_runs import plan_run as plan_run
from .plots.coefficient_picture import plot_coefficients as plot_coefficients
from .plots.experiment_pictures import (
  plot_contrasts as plot_contrasts,
)
from .plots.experiment_pictures import (
  plot_density as plot_density,
)
from .plots.experiment_pictures import (
  plot_schedules as plot_schedules,
)
from .plots.law_picture import (
  plot_isoflops as plot_isoflops,
)
from .plots.law_picture import (
  plot_law as plot_law,
)
from .plots.law_picture import (
  plot_predicted as plot_predicted,
)
from .ranking import (
  Noise as Noise,
)
from .ranking import (
  Ranking as Ranking,
)
from .ranking import (
  rank_schedules as rank_schedules,
)
from .ranking import (
  replicate_noise as replicate_noise,
)
from .report import report_html as report_html
from .runs_table import Runs as Runs
from .runs_table import write_runs as write_runs
