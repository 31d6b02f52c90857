"""What other vision models say about an image: found, stored, and put into words for MoAI."""
