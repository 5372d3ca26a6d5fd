"""Answering a round: leases, journal and heartbeat of a shard, and the queue of a waiting pass."""
