"""From corpora to data sets that LLaMA-Factory reads."""
