"""`unival sweep`: Hydra multirun over one stage, each job a run of MLflow below that of the sweep.

    unival sweep -m stage=finetune item=vqa set.finetune.train.optimizer.lr=3e-4,1e-3 seed=0,1,2
    unival sweep -m stage=finetune item=vqa hydra/sweeper=tpe hydra.sweeper.trials=20 \
        'set.finetune.train.optimizer.lr=tag(log,interval(1e-4,1e-2))'
    unival sweep +sweep=t3_balancing hydra/launcher=joblib hydra.launcher.n_jobs=2

The tree is the one of `params.yaml`; `set.<stage>...` changes any value. A job resolves its configuration
into its own folder below `multirun/` and runs `python -m unival run` in a process of its own, so that a sweep
and the pipeline execute the same code; its outs stay in that folder. The same command goes on with a sweep
that was stopped or has failed jobs.

Reading order: `start.py` (a sweep from begin to end), `overrides.py` (its command line), `jobs.py` (one job),
`search.py` and `trials.py` (points that Optuna chooses), `summary.py` (what came out).
"""
