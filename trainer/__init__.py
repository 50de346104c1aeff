"""What runs under torchrun on the hosts. Never imports provision."""
