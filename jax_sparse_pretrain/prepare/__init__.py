"""From text to token shards, once, on any machine, without JAX.

`__main__` is the command; `inputs` finds what to read; `pipeline` tokenizes it
on all cores; `writing` keeps shards and a journal, so that a killed run goes on
with the same bytes; `vocabulary` trains a tokenizer; `adopting` takes token
files of other projects as they lie; `statistics` describes what was made.
"""
