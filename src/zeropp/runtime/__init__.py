"""Floor 5: torch starts here; runs programs on ranks, exactly."""
