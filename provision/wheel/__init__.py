"""What a DeepSpeed wheel is, and how one is looked into."""
