"""From what the user has, folders, archives and array files, to uint8 images in memory and batches of them."""
