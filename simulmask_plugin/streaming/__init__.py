"""Sessions that READ and WRITE with a kept cache, and their parity with training."""
