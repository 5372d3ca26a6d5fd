"""What a run is, and what it writes of itself: its jobs, rounds, tokens and provenance."""
