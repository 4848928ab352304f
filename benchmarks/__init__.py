"""The benchmarks behind the speed figures in the docs: `make bench`, or `python -m benchmarks`.

`rows` lists the rows of the benchmark. Each row has a file, which describes what it measures and has its bars, the
figures that it must reach. `table` shows the results, and `document` writes them into docs/performance.md. The
following scripts measure single figures of other docs: `cached_ood.py`, `equal_time.py`, `few_held_out.py`,
`network_bytes.py`, `packed.py`, `trial_start.py`.
"""
