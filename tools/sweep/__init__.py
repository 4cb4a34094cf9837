"""`mmalign sweep`: many trainings, each evaluated against the same base."""
