"""Shards on disk to batches on device: sample -> manifest -> order -> view -> row -> batch."""
