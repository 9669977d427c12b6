"""Laws side by side on the same runs, in sample and out of it.

`compare_laws` is the verb. The laws are the table in `fitting.forms`, and the
tests are the table `SPLITS` in `compare`; either takes another line.
"""
