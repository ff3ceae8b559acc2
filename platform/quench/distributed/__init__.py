"""Ray, and nothing but Ray: the only modules that import it."""
