"""Rejected answers that need no label: made from a chosen one, by a model that cannot see the picture, or not well."""
