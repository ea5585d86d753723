"""Overrides under which the whole pipeline runs in seconds on one core."""

# Every network learns a little, every stage runs: seconds on one core.
TINY = (
    "data.limit=300",
    "vae.steps=30",
    "vae.width=8",
    "vae.max_width=16",
    "transformer.steps=12",
    "transformer.width=16",
    "transformer.layers=1",
    "quantizer.K=16",
    "quantizer.max_iter=2",
    "geo.n_probes=4",
    "geo.k=8",
    "evaluation.n_samples=20",
    "evaluation.classifier.steps=10",
    "trainer.threads=1",
    "trainer.precision=32-true",
    "trainer.device=cpu",
)
