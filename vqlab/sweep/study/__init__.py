"""One Optuna study: storage, sampler and pruner, retries, the winner."""
