"""Scripts that measure; each prints its table and says what it ran on. Not installed."""
