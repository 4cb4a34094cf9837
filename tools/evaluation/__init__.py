"""`mmalign evaluate`: answers, judgments, scores, and all of them for base and aligned."""
