"""`run.shard_by: samples`: slices of the documents instead of requests."""
