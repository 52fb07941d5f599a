"""The catalogue: which apps there are, what models they need, and under which licences."""
