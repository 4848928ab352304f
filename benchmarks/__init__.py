"""What the speed figures in the docs are made with: `make bench`, or `python -m benchmarks`.

`rows` lists what is measured; each row has a file, which says what it measures and holds its bars. `table` shows what
came out, `document` writes it into docs/performance.md. Scripts for single figures of other docs are beside them:
`cached_ood.py`, `network_bytes.py`, `trial_start.py`.
"""
