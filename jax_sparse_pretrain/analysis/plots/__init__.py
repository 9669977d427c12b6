"""Pictures of runs and laws: values in, a matplotlib Figure out.

One picture a module. Nothing here fits, reads or writes, but for
`style.save`. Only these modules import matplotlib, and never pyplot.
"""
