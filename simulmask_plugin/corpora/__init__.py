"""Corpora become data sets that LLaMA-Factory reads."""
