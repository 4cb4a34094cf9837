"""The process that holds the model: rows join and leave a running batch."""
