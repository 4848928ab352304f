"""The events of a running job, and the displays that show them to people and machines."""
