"""Container images of a site's store."""
