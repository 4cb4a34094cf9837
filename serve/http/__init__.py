"""The process that speaks HTTP: checks requests, asks the worker, answers. Free of torch."""
