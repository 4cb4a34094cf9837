"""Judges: who rates the answers to a prompt. An API, an adapter's implicit reward, checked claims, the exact world."""
