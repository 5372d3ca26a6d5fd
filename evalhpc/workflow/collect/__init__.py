"""After a round: merge, publish or plan on; and the certificate checked again."""
