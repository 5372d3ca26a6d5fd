"""What went wrong in a round: requests, shards and nodes to do without, and when to stop."""
