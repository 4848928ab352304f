"""What ends a job with a sentence for the user in place of a traceback."""

__all__ = ["JobError", "in_flags"]


class JobError(Exception):
    """The job cannot run, or cannot go on; the message is one sentence that says why and what to do."""


def in_flags(message: str) -> str:
    """A sentence of the library about data, in the words of the command line."""
    from glow.datasets import DOWNLOAD_ADVICE

    return message.replace(DOWNLOAD_ADVICE, "leave out --no-download")
