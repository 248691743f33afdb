"""How an example becomes a sequence of rows; a layout is a file."""
