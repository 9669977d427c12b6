"""Many runs from one config file, whose common first steps are trained once."""
