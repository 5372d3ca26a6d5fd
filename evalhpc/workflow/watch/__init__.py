"""What a user sees of a run: where it stands, its scores, and why it went wrong."""
