"""What a job says while it runs, and how each event is shown."""
