"""Fits of scaling laws, with intervals. NumPy and SciPy only.

`fit_scaling_law` is the verb. A law is a line of the table in `forms`; the
solver, the search for the global optimum, the intervals and the resamples work
for every form, so none of them needs a change for a new law.
"""
