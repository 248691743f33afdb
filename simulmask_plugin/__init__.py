"""Simultaneous translation with large language models, as a plugin for LLaMA-Factory."""

__version__ = "0.1.0"
