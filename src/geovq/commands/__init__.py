"""What the entry points call: compose, validate, run, record, print."""
