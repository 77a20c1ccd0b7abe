"""What blocks, links and steps really take."""
