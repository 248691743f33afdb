"""Files on disk: read strictly, written atomically."""
