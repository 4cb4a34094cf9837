"""The steps of every benchmark (generate, judge, score) and the records between them. Only local models need torch."""
