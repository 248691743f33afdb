"""The versions of transformers that this plugin is tested with."""

LOWEST, LOCKED, HIGHEST = "5.5.2", "5.5.4", "5.6.0"
"""Ends of the range that `.ci/versions.py` tests, and the locked version; LLaMA-Factory 0.9.5 allows none higher."""

REMEDY = (
    f"Install a version of transformers that is tested, {LOWEST} to {HIGHEST} (pip install transformers=={LOCKED}), "
    "or see docs/versions.md."
)

WITHOUT_FLASH_ATTENTION_2 = "5.6.0"
"""Its FlashAttention 2 cannot start: it casts attention sinks that do not exist (transformers issue 45588)."""
