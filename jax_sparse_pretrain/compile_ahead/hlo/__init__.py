"""Reads the text of compiled programs: what they run, compute, move and send.

`instructions` parses the text, `execution` follows loops and branches, `costs`
counts FLOPs, bytes and messages. Only what XLA's own analysis does not count,
loops above all, is worth reading here. Checked against that analysis where
nothing loops, and against closed forms: tests/test_ahead.py.
"""
