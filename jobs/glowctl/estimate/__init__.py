"""What a job will cost: `timing` times some of its work in a worker, and the other modules multiply.

`glowctl estimate` shows the result, and ``--max-hours`` and ``--max-price`` refuse a job that would exceed them.
"""
