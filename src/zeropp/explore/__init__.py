"""A schedule on a page before anything runs: questions as JSON, answers as JSON, and the page."""
