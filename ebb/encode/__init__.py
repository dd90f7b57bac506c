"""Between the user's world (labels, pictures) and tensors."""
