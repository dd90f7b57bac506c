"""What a checkpoint holds, asked for samples."""
