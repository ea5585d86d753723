"""Codewords that their neighbours move, from images to a file of bits and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from geovq.coding.format import read_body, read_header
from geovq.commands.compress import CompressSettings, compressed
from geovq.commands.decompress import DecompressSettings, decompressed
from geovq.configuration.parse import parse
from geovq.data.collection import Collection
from geovq.explorer.edits import original
from geovq.explorer.explored_run import explored
from geovq.models.codec import half_mask
from geovq.pipeline.new_images import images_of
from geovq.pipeline.stages.codes import load_codes
from geovq.pipeline.stages.samples import Sampler

WORDS = ("quantizer=conditional", "quantizer.steps=20", "quantizer.width=16", "quantizer.n_moves=4", "quantizer.beam=2")


@pytest.fixture(scope="module")
def run(
    make_runner: Callable[..., Any], begin: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Any]:
    runner = make_runner(begin(tmp_path_factory.mktemp("conditional")), *WORDS)
    return runner, runner.obtain(("vae", "codes", "prior"))


@pytest.fixture(scope="module")
def sampler(run: tuple[Any, Any]) -> Sampler:
    return Sampler(run[0].context, run[1])


def test_a_code_moves_what_later_ones_stand_for_and_no_earlier_one(run: tuple[Any, Any], sampler: Sampler) -> None:
    codes = load_codes(run[1]["codes"], "test")
    assert codes.shape[1:] == (4, 4)
    assert len(codes.unique()) > 4
    here, changed = 6, codes.clone()
    changed.flatten(1)[:, here] = (changed.flatten(1)[:, here] + 1) % 16
    moved = (sampler.codec.embed(changed) - sampler.codec.embed(codes)).flatten(2).norm(dim=1)  # (N, T)
    assert (moved[:, :here] == 0).all()
    assert (moved[:, here:] > 0).any(0).all()


def test_a_training_that_gains_nothing_says_so(
    make_runner: Callable[..., Any], begin: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = make_runner(begin(tmp_path), *WORDS, "quantizer.learning_rate=1e6")
    history = [each["cost"] for each in runner.obtain(("codebook",))["codebook"].json("history")]
    assert history[0] == history[-1]
    assert "remark: quantizer=conditional: training gained nothing" in capsys.readouterr().err


def test_images_are_drawn_and_completed(run: tuple[Any, Any], sampler: Sampler) -> None:
    labels = torch.arange(6)
    codes, images = sampler.draw(labels, temperature=1.0, seed=0)
    torch.testing.assert_close(sampler.decoder(sampler.codec.embed(codes)), images)
    assert images.std(0).max() > 0
    given = load_codes(run[1]["codes"], "test")[:6].long()
    mask = half_mask(sampler.codec, "upper").expand(given.shape)
    drawn, completed = sampler.complete(labels, given, mask, temperature=1.0, seed=0)
    assert (drawn[mask] == given[mask]).all()
    assert (drawn != given).any()
    torch.testing.assert_close(sampler.decoder(sampler.codec.embed(drawn)), completed)


def test_test_images_come_back_from_a_file(run: tuple[Any, Any], compose: Callable[..., Any]) -> None:
    runner, artifacts = run
    images = runner.context.data.test.images[:20]
    settings = parse(CompressSettings, compose(name="compress"))
    done = compressed(runner, "0" * 32, Collection(images.numpy(), None, ()), settings)
    header = read_header(done.data, "x.gvq")
    blocks = read_body(done.data, header, "x.gvq")[1]
    back = decompressed(runner, header, blocks, parse(DecompressSettings, compose(name="decompress")), "x.gvq")
    codes = load_codes(artifacts["codes"], "test")[:20]
    assert (back == images_of(runner.context, artifacts, codes)).all()


def test_the_explorer_decodes_all_that_a_code_moves(run: tuple[Any, Any]) -> None:
    runner, _ = run
    edited = original(explored(runner.context, runner.present(), "conditional", "0" * 32).split("test"), 3)
    slot = edited.slots()[2]
    codes, errors, images = edited.alternatives(slot, 3)
    every = [edited.with_code(slot.position, code) for code in range(slot.size)]
    found = torch.tensor([each.error(each.decoded) for each in every])
    torch.testing.assert_close(errors, found.sort().values[:3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(images[0], every[int(codes[0])].decoded)
