"""Commands that look at data and records: `data`, `runs`, `show` and `ui`. None of them starts Ray."""
