"""Rows of data become examples, and examples become batches."""
