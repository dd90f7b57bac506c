"""Networks that look at pictures, and statistics of what they see."""
