"""deploy, lock-env, envs, rollback, clean and undeploy: the hosts' environments."""
