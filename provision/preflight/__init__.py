"""May this run start now: what each host and the network between them say."""
