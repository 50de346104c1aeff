"""Files onto every host, each byte out of the controller once."""
