"""What a large autoencoder costs: images at a time, seconds per image and peak memory of encoding, sketch and decoding.

    python benchmarks/pretrained.py --widths 128 256 512 512 --images 2 --probes 16

An AutoencoderKL of diffusers with untrained weights; with four widths 256x256 images have a grid of 32x32 tokens. Those
in the line above are the widths of Stable Diffusion's.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from diffusers import AutoencoderKL

from geovq.assignment.search import search_codes
from geovq.geometry.computing import Precision, images_per_pass, runs_in_bf16, saved_bytes
from geovq.geometry.metric import token_metrics
from geovq.geometry.sketch import sketch_blocks
from geovq.models.pretrained import PretrainedAutoencoder, PretrainedDecoder
from geovq.pipeline.stages.latents import decode, encode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 256])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--precision", choices=("auto", "32", "bf16"), default="auto")
    parser.add_argument("--search", type=int, default=0, help="rounds of a search for codes, K = 512; 0: none")
    parser.add_argument("--one-pass", action="store_true", help="one image once forwards and backwards, and no more")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    n = len(given.widths)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * n, "up_block_types": ("UpDecoderBlock2D",) * n}
    model = AutoencoderKL(block_out_channels=tuple(given.widths), layers_per_block=given.layers, **blocks)
    vae = PretrainedAutoencoder((3, given.side, given.side), {"_class_name": "AutoencoderKL", **model.config})
    vae.eval().requires_grad_(False)
    del model
    count, cpu = sum(each.numel() for each in vae.parameters()), torch.device("cpu")
    print(f"{count / 1e6:.0f} million weights, {given.images} images, {given.probes} probes, torch {torch.__version__}")
    if given.one_pass:
        one_pass(
            vae.decoder, torch.randn(1, 4, given.side // 2 ** (n - 1), given.side // 2 ** (n - 1)), given.precision
        )
        return
    images = torch.randint(0, 256, (given.images, 3, given.side, given.side), dtype=torch.uint8)
    latents = timed("encoding", given.images, lambda: encode(vae, images, cpu)["mean"])
    bf16 = runs_in_bf16(given.precision, cpu, torch.float32)
    one, most = latents[:1], min(128, given.images)
    print(f"kept for the backward pass of an image: {saved_bytes(vae.decoder, one, bf16) / 1e9:.2f} GB")
    print(f"images at a time: {images_per_pass(vae.decoder, one, most, backward=True, bf16=bf16)}")
    how = {"n_probes": given.probes, "precision": given.precision}
    metrics = timed("sketch", given.images, lambda: token_metrics(vae.decoder, latents, **how))
    timed("decoding", given.images, lambda: decode(vae.decoder, latents, cpu))
    if given.search:
        tokens = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        words = tokens[torch.randperm(len(tokens))[:512]]
        codes = torch.cdist(tokens, words).argmin(1).view(given.images, *latents.shape[2:])

        def search() -> object:
            settings = {"n_rounds": given.search, "precision": given.precision}
            return search_codes(vae.decoder, images, codes, words, metrics, **settings)

        timed(f"search, {given.search} rounds", given.images, search)


def one_pass(decoder: PretrainedDecoder, z: torch.Tensor, precision: Precision) -> None:
    """What the largest models take at least."""
    bf16 = runs_in_bf16(precision, torch.device("cpu"), torch.float32)
    print(f"kept for the backward pass of an image: {saved_bytes(decoder, z, bf16) / 1e9:.2f} GB", flush=True)
    timed("forwards and backwards", 1, lambda: sketch_blocks(decoder, z, 1, 0, 0, bf16=bf16))


def timed(name: str, n: int, work: Callable[[], object]) -> object:
    """The result; processor seconds per image and peak memory are printed."""
    begun = time.process_time()
    result = work()
    seconds = (time.process_time() - begun) / n
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{name}: {seconds:.2f} s of processor time per image, peak so far {peak:.2f} GB", flush=True)
    return result


if __name__ == "__main__":
    main()
