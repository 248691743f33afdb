"""Examples and masks, drawn and typed."""
