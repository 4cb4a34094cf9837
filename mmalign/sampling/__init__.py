"""Answers to the prompts of a shard set: from a model here, on one rank or many, or from a server."""
