"""`glowctl`: flags become a spec, a spec becomes a request. Nothing else happens here."""
