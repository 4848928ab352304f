"""Scripts that measure the figures in the docs. Each prints its figures; `--quick` takes fewer repetitions.

`make bench` runs those behind docs/performance.md: `speed`, `growth`, `memory`, `workers`, `precision`, `ood` and
`start_up`. The others are for single figures: `equal_time` (docs/models.md), `few_held_out` (docs/evaluation.md),
`network_bytes` (docs/cluster.md), `packed` (docs/data.md), and `delay`, `delay_nonconform`, `listed`, `monitoring` and
`watch_memory` (docs/monitoring.md).
"""
