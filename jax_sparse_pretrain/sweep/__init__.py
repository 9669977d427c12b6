"""Many runs from one config file, whose common first steps are trained once.

`sweep_file` reads the file, `prefixes` finds which runs begin alike, `runner`
trains them and keeps their files, and `collect` makes their table. A run that
goes on from the steps of another must end exactly as it would alone, to the
bit: whatever is changed here, the tests hold that.
"""
