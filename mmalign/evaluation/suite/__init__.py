"""A suite of benchmarks under two models, as a report: what alignment gained, what it cost, and how sure that is."""
