"""What the commands of tasks.py are made of; the only place beside it that knows every room."""
