"""Pictures of examples and masks, as PNG and in the terminal."""
