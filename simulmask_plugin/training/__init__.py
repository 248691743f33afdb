"""Training with an unmodified LLaMA-Factory: its seams, the data set, the trainer."""
