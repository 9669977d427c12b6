"""What a run leaves on disk, and who may write it.

`workdir` has the names of all files and `lock` says who may write them.
`output` and `sinks` write what is logged, `checkpoint` and `resume` save and go
on, `branches` leave a run to others, `snapshots` hold masks. Training and
sweeps write here. The analysis only reads, through `workdir` and `snapshots`,
which load no jax.
"""
