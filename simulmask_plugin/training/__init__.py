"""LLaMA-Factory, driven from outside: its seams, the data set, the trainer."""
