"""Model servers, beside a shard or in deployment jobs of their own, and whether they live."""
