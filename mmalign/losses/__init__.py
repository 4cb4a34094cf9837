"""Losses, one file per paper: pure functions of log-probability records."""
