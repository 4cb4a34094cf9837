"""The chat page: what a browser gets at `/`, comparisons of two models, and their votes."""
