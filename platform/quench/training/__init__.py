"""A recipe, the loop that carries it out, and what that loop reports."""
