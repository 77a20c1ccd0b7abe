"""Floor 4: torch starts here; runs programs on ranks, exactly."""
