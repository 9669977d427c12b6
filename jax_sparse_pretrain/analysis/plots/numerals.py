"""Numbers as the pictures and the report write them."""

from jax_sparse_pretrain import text as tables


def short(value: float) -> str:
  """Three digits and a unit: 16.4B."""
  return tables.short(float(f'{value:.3g}'))


def power(value: float, digits: int = 4) -> str:
  """2143, 3e18."""
  return f'{value:.{digits}g}'.replace('e+0', 'e').replace('e+', 'e')


def signed(value: float, form: str) -> str:
  """With a minus as wide as a plus, and no sign of a zero."""
  text = f'{value:{form}}'
  return text.replace('-', '\u2212') if float(text) else text.lstrip('+-')


def percent(value: float) -> str:
  """80 %, 87.5 %."""
  return f'{100 * value:.3g} %'
