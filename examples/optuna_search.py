"""Settings by Optuna, which proposes the next ones from the validation PSNR of those before.

    pip install 'optuna>=5,<6'
    python examples/optuna_search.py 20 data=fashion quantizer=pullback transformer=none

The same command goes on with the study. Each trial is one run of MLflow; what trials share is built once.
"""

import sys
from pathlib import Path

import optuna
from hydra import compose, initialize_config_dir

from geovq.commands.train import read_config, train

n_trials, words = int(sys.argv[1]), sys.argv[2:]


def validation_psnr(trial: optuna.Trial) -> float:
    """PSNR in dB that a trial reaches on validation images; the report of its run has the other scores."""
    proposed = [
        f"vae.learning_rate={trial.suggest_float('vae.learning_rate', 3e-4, 1e-2, log=True)}",
        f"geo.n_probes={trial.suggest_categorical('geo.n_probes', [4, 8, 16])}",
    ]
    return train(compose("train", [*words, *proposed])) or float("nan")


with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "configs"), version_base="1.3"):
    root = read_config(compose("train", words)).root
    root.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{root}/optuna.db", study_name=" ".join(words), direction="maximize", load_if_exists=True
    )
    study.optimize(validation_psnr, n_trials)
print(study.best_value, "dB by", study.best_params)
