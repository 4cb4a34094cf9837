"""The shard format (README.md) and the small shard set that the demo and the tests use."""
