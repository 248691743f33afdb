"""What lies on disk: read strictly, written whole."""
