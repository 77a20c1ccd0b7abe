"""ZeroPP."""
