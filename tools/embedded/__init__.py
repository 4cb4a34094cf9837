"""How the embedded model came about: its training from scratch, and its scores."""
