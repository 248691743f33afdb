"""Text becomes units, and units become tokens; the prompt around them."""
