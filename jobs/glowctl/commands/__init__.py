"""The command line ``glowctl``: flags become a spec, a spec a request, and `glowctl.dispatch` carries it out."""
