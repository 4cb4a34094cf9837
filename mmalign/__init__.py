"""Align a multimodal language model with preferences, and show what the alignment gained and cost."""

__version__ = "0.1.0"
