"""Published benchmarks by their official rules: what a model and a judge are asked, and what is counted. No torch."""
