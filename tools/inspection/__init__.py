"""`mmalign inspect`: a shard set in numbers, what is wrong with it, its rows, and a page to browse."""
