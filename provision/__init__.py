"""The controller: build, hosts, deploy, launch. Never imports torch."""
