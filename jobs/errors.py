"""What ends a job with a sentence for the user in place of a traceback."""

__all__ = ["JobError"]


class JobError(Exception):
    """The job cannot run, or cannot go on; the message is one sentence that says why and what to do."""
