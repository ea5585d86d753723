"""Ways between tokens, and differences between runs."""

from __future__ import annotations

from concurrent.futures import wait
from itertools import pairwise
from typing import Any

import pytest
import torch

from geovq.errors import ConfigError, InputError
from geovq.explorer.differences import check_same_images, differences, scores_of_both
from geovq.explorer.explored_run import ExploredRun, explored
from geovq.explorer.known_paths import KnownPaths
from geovq.explorer.paths import N_FRAMES, geodesic, graph_path, ways
from geovq.geometry.curves import curve_length, in_context
from geovq.geometry.paths import shortest_path


@pytest.mark.parametrize("split", ["test", "train"])
def test_ways_join_the_tokens_and_the_geodesic_is_shortest(run: ExploredRun, split: str) -> None:
    tokens = run.split(split)
    found = ways(tokens, 12, 400)
    found += (geodesic(tokens, 12, found),)
    assert [way.name for way in found] == ["straight line", "graph path", "geodesic"]
    for way in found:
        torch.testing.assert_close(way.points[0], tokens.tokens[12])
        torch.testing.assert_close(way.points[-1], tokens.tokens[400])
        assert way.frames.shape == (N_FRAMES, 1, 8, 8)
    # The first frame is the reconstruction of the first token's image; others differ from it.
    torch.testing.assert_close(
        found[0].frames[0], run.latent_decoder(tokens.mean[:1])[0].detach(), atol=1e-4, rtol=1e-4
    )
    assert float((found[0].frames[-1] - found[0].frames[0]).abs().max()) > 1e-3
    assert found[2].length <= min(way.length for way in found) * (1 + 1e-4)


def test_a_straight_line_is_measured_as_finely_as_a_curve(run: ExploredRun) -> None:
    tokens = run.split("test")
    ends = tokens.tokens[12], tokens.tokens[400]
    decode = in_context(run.latent_decoder, tokens.mean[0], 3, 0)
    line = torch.stack([torch.lerp(*ends, share) for share in torch.linspace(0, 1, 257)])
    assert ways(tokens, 12, 400)[0].length == pytest.approx(float(curve_length(decode, line)), rel=1e-3)


def test_the_graph_path_has_tokens_for_stops(run: ExploredRun) -> None:
    nodes = torch.from_numpy(run.graph.nodes)
    path = graph_path(run.split("test"), 12, 400)
    for stop in path[1:-1]:
        assert bool((nodes == stop).all(1).any())
    assert bool((path.diff(dim=0).abs().sum(1) > 0).all())


def test_a_path_from_a_token_to_itself_is_refused(run: ExploredRun) -> None:
    with pytest.raises(InputError, match="tokens 3 and 3 are the same"):
        ways(run.split("test"), 3, 3)


def test_without_a_graph_its_path_is_left_out(run: ExploredRun) -> None:
    lacking = ExploredRun(run.context, {k: v for k, v in run.inputs.items() if k != "graph"}, "x", "y")
    assert [way.name for way in ways(lacking.split("test"), 12, 400)] == ["straight line"]


def test_differences_of_two_runs_are_those_of_their_reports(
    run: ExploredRun, digits_run: Any, make_runner: Any
) -> None:
    runner, results = digits_run
    other = make_runner(runner.context.config.root, "quantizer=euclidean", "transformer=none")
    found = other.run()
    second = explored(other.context, other.present(), "other", "1" * 32)
    scores = scores_of_both(run, second)
    assert scores[0].name == "psnr"
    paired = differences(run, second, scores[0])
    means = [each["report"].artifact.json("metrics")["psnr"] for each in (results, found)]
    assert float(paired.gain.mean()) == pytest.approx(means[1] - means[0], abs=1e-4)
    assert second.missing("prior") is not None


def test_runs_on_other_images_are_not_compared(run: ExploredRun) -> None:
    from dataclasses import replace

    other = ExploredRun(run.context, run.inputs, "other", "2" * 32)
    other.info = replace(run.info, fingerprint="else")
    with pytest.raises(ConfigError, match="fingerprint"):
        check_same_images(run, other)


@pytest.mark.parametrize(("setting", "value"), [("split_seed", 7), ("test_fraction", 0.3), ("limit", 150)])
def test_another_draw_of_test_images_is_not_compared(run: ExploredRun, setting: str, value: float) -> None:
    """As many images of the same source, but others."""
    other = ExploredRun(run.context, run.inputs, "other", "2" * 32)
    data = run.config.data.model_copy(update={setting: value})
    other.config = run.config.model_copy(update={"data": data})
    check_same_images(run, run)
    with pytest.raises(ConfigError, match=rf"data\.{setting}="):
        check_same_images(run, other)


def test_a_run_without_codes_is_refused(run: ExploredRun) -> None:
    present = {name: artifact for name, artifact in run.inputs.items() if name in ("vae", "latents")}
    with pytest.raises(ConfigError, match="its stage codes is not there"):
        explored(run.context, present, "x", "3" * 32)  # type: ignore[arg-type]


def test_a_path_that_was_prepared_is_as_short_as_one_that_is_searched_for(run: ExploredRun) -> None:
    adjacency, paths = run.graph.adjacency, KnownPaths(run.graph.adjacency)
    paths.prepare(3)
    wait(paths._trees.values())
    for node in range(0, run.graph.n_nodes, 97):
        path, (_, length) = paths.path(3, node), shortest_path(adjacency, 3, node)
        assert (path[0], path[-1]) == (3, node)
        assert sum(adjacency[a, b] for a, b in pairwise(path)) == pytest.approx(length)


def test_few_paths_are_kept(run: ExploredRun) -> None:
    paths = KnownPaths(run.graph.adjacency)
    for node in (0, 1, 2, 3, 4, 1, 5):
        paths.prepare(node)
    assert list(paths._trees) == [3, 4, 1, 5]
