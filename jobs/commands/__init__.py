"""The command line ``glowctl``: flags become a spec, a spec becomes a request, and `jobs.dispatch` carries it out."""
