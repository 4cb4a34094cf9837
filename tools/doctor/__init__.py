"""`mmalign doctor`: what can be found wrong with a machine and a run before it starts."""
