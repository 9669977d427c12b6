"""jaxpruner's updaters in our step, with all the patches that they need."""
