"""A run's folder as people see it: lines, a view while it runs, a page when it is over."""
