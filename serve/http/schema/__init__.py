"""What requests and replies look like: every field of a request is obeyed, or refused by name."""
