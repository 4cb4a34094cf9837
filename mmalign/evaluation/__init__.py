"""Benchmark runners, scorers, paired statistics and the report; torch only where a model runs."""
