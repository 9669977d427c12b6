"""What a run would take on devices that are not here.

The train step is compiled ahead of time, for TPUs by their own compiler, and
read: `topology` names the devices, `program` compiles, `memory`, `collectives`
and `work` read what came out, `report` prints it.
"""
