"""Site files: drafted, shown, and checked against the cluster and its nodes."""
