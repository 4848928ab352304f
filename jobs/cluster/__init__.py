"""Ray clusters: the Jobs API, what is checked before a job, and what runs there."""
