"""How reranking is trained, and its graphs are added to the towers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("open_clip")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from mmsearch.training.build import add_files  # noqa: E402
from mmsearch.training.features import Captions, TextStates  # noqa: E402
from mmsearch.training.fit import symmetric_cross_entropy  # noqa: E402
from mmsearch.training.fit_late_interaction import (  # noqa: E402
    Pairs,
    RerankTraining,
    rate_curve,
    text_embeddings,
)
from mmsearch.training.late_interaction import (  # noqa: E402
    NEAREST,
    POOLED,
    TOKEN_DIM,
    Matcher,
    MiniWords,
    RegionHead,
    WordHead,
    hubness,
    weighted_mean,
)
from mmsearch.training.onnx_graphs import export_matcher, export_module, extension, quantise  # noqa: E402
from mmsearch.training.recipe import Recipe  # noqa: E402

PHOTOS, WIDTH, SIDE = 24, 12, 5
RECIPE = dataclasses.replace(
    Recipe(), rerank_rounds=((12, 1.0), (4, 0.5)), rerank_warm=1, rerank_batch=12, rerank_rate=3e-3
)


class Grids(nn.Module):
    """Embeddings of photos whose places already have features: only the head is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = RegionHead(torch.zeros(WIDTH), torch.ones(WIDTH), SIDE, RECIPE)

    def forward(self, grid: Tensor) -> Tensor:
        return self.rows(grid.flatten(2).transpose(1, 2))


def pairs() -> Pairs:
    """Photos that each show a thing of their own, with a caption that names it in its states."""
    generator = torch.Generator().manual_seed(0)
    things = torch.randn(PHOTOS, WIDTH, generator=generator)
    grids = things[:, :, None, None] + 0.1 * torch.randn(
        PHOTOS, WIDTH, SIDE, SIDE, generator=generator
    )
    states = things.repeat_interleave(4, 0) + 0.1 * torch.randn(
        4 * PHOTOS, WIDTH, generator=generator
    )
    ids = torch.tensor([101, 7, 8, 102]).repeat(PHOTOS)
    texts = TextStates(ids, states, torch.arange(PHOTOS + 1) * 4)
    return Pairs([grids.numpy().astype(np.float16)], Captions(texts, torch.arange(PHOTOS + 1)))


def trained() -> RerankTraining:
    torch.manual_seed(0)
    words = MiniWords(nn.ModuleList(), WordHead(WIDTH, RECIPE))
    training = RerankTraining(Grids(), words, pairs(), RECIPE)
    training.run()
    return training


def rows(things: int, count: int = 7, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(
        torch.randn(things, count, TOKEN_DIM, generator=generator), dim=-1
    )


def test_training_brings_words_to_their_regions() -> None:
    training = trained()
    with torch.no_grad():
        photos = training.image(torch.from_numpy(training.pairs.grids[0]).float())
        texts = text_embeddings(training.text, training.pairs.captions.states, torch.arange(PHOTOS))
        whole, parts = training.matcher.all_pairs(texts, photos)
    own = torch.arange(PHOTOS)
    assert (whole.argmax(1) == own).float().mean() > 0.9
    assert (parts.argmax(1) == own).float().mean() > 0.9


def test_training_is_the_same_for_the_same_seed() -> None:
    one, other = trained(), trained()
    assert all(map(torch.equal, one.trained.parameters(), other.trained.parameters()))


def test_the_right_pairs_have_the_least_symmetric_cross_entropy() -> None:
    sure = torch.eye(4) * 20
    assert symmetric_cross_entropy(sure) < 1e-3
    assert symmetric_cross_entropy(sure[[1, 0, 2, 3]]) > 5
    assert symmetric_cross_entropy(torch.zeros(4, 4)) == pytest.approx(np.log(4), abs=1e-6)


def test_a_rate_is_nothing_at_first_then_rises_and_falls_to_nothing() -> None:
    rate = rate_curve(first=1, last=4, steps_per_epoch=10)
    assert [rate(step) for step in (0, 9)] == [0, 0]
    assert 0 < rate(10) < rate(14) < rate(17)
    assert rate(39) < 0.02


def test_a_match_is_what_crossing_gives_when_there_are_no_hubs() -> None:
    matcher = Matcher(
        dataclasses.replace(Recipe(), hub_weight=(0.0, 0.0), words_share=(0.5, 0.5))
    ).eval()
    nn.init.normal_(matcher.word_weight.weight)
    texts, photos = rows(3, 6), rows(5, 9, seed=1)
    with torch.no_grad():
        crossed = matcher.all_pairs(texts, photos)[1] / matcher.temperatures.scales()[1]
        words, regions = texts[:, POOLED:], photos[:, POOLED:]
        found = torch.stack([matcher(text[None], regions)[0] for text in words])
    torch.testing.assert_close(found, crossed, atol=1e-5, rtol=0)


def test_what_the_query_consists_of_counts_as_much_as_asked_for() -> None:
    matcher = Matcher(
        dataclasses.replace(Recipe(), hub_weight=(0.0, 0.0), words_share=(1.0, 0.0))
    ).eval()
    words, regions = rows(1, 4), rows(1, 9, seed=1)
    cosines = (words @ regions.transpose(1, 2))[0]
    with torch.no_grad():
        by_text, by_photo = matcher(words, regions)
    assert by_text.item() == pytest.approx(cosines.amax(1).mean().item(), abs=1e-5)
    assert by_photo.item() == pytest.approx(cosines.amax(0).clamp_min(0).mean().item(), abs=1e-5)


def test_rows_of_zeros_count_nothing() -> None:
    matcher = Matcher(Recipe()).eval()
    words, regions = rows(2, 6), rows(2, 9, seed=1)
    longer = nn.functional.pad(words, (0, 0, 0, 4))
    with torch.no_grad():
        torch.testing.assert_close(matcher(longer, regions), matcher(words, regions))


def test_what_is_near_everything_is_a_hub() -> None:
    evenly = torch.full((50, 3), 1 / 3)
    typical = weighted_mean(rows(50, 3), evenly)
    hub = nn.functional.normalize(typical.mean(0, keepdim=True), dim=-1)
    odd = rows(1, 1, seed=9)[0]
    found = hubness(torch.cat([hub, odd]), typical)
    assert found[0] > found[1]
    by_hand = (hub @ typical.T)[0].sort().values[-NEAREST:].mean()
    torch.testing.assert_close(found[0], by_hand)


def test_the_graph_scores_as_the_matcher_does_from_either_side() -> None:
    matcher = Matcher(Recipe()).eval()
    matcher.set_typical(rows(40, 5), rows(40, 5, seed=1))
    session = onnxruntime.InferenceSession(export_matcher(matcher))
    texts, photos = ((127 * rows(4, n, n)).round().to(torch.int8) for n in (6, 27))
    for one, other in ((texts[:1], photos), (texts, photos[:1]), (texts[:1], photos[:1])):
        inputs = {"words": one.numpy(), "regions": other.numpy()}
        with torch.no_grad():
            wanted = matcher(one.float() / 127, other.float() / 127)
        for found, expected in zip(session.run(["text", "image"], inputs), wanted, strict=True):
            np.testing.assert_allclose(found, expected, atol=2e-3)


def test_words_are_spoken_tokens_and_regions_are_all_alike_in_number() -> None:
    side = MiniWords(nn.ModuleList(), WordHead(WIDTH, RECIPE)).eval()
    ids = torch.tensor([[101, 7, 8, 102, 0], [101, 102, 0, 0, 0]])
    there = side.parts(torch.randn(2, 5, WIDTH), ids).norm(dim=-1) > 0.5
    assert there.tolist() == [[False, True, True, False, False], [False] * 5]
    regions = Grids().eval().rows.parts(torch.randn(3, SIDE * SIDE, WIDTH))
    assert regions.shape == (3, 25, TOKEN_DIM)


def test_a_graph_laid_behind_another_goes_on_where_it_is_tapped() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    tower = export_module(nn.Sequential(first, nn.ReLU()), torch.zeros(2, 6), "x", {0: "n"})
    added = onnx.load_from_string(export_module(second, torch.zeros(2, 6), "y", {0: "n"}))
    for node in added.graph.node:
        node.output[:] = ["more" if one == "vectors" else one for one in node.output]
    added.graph.output[0].name = "more"
    inner = onnx.load_from_string(tower).graph.node[0].output[0]
    session = onnxruntime.InferenceSession(tower + extension(added, {"y": inner}, "added"))
    x = torch.randn(3, 6)
    vectors, more = session.run(["vectors", "more"], {"x": x.numpy()})
    np.testing.assert_allclose(vectors, first(x).relu().detach(), atol=1e-5)
    np.testing.assert_allclose(more, second(first(x)).detach(), atol=1e-5)


def test_narrow_weights_do_nearly_the_same() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filter, self.linear = nn.Conv2d(8, 64, 3), nn.Linear(64, 128)
            self.matrix = nn.Parameter(torch.randn(128, 64) / 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.filter(x).mean((2, 3)).relu()) @ self.matrix

    exact = export_module(Net(), torch.zeros(2, 8, 5, 5), "x", {0: "n"})
    model = onnx.load_from_string(exact)
    quantise(model)
    small = model.SerializeToString()
    x = np.random.default_rng(0).normal(size=(3, 8, 5, 5)).astype(np.float32)
    found, wanted = (
        onnxruntime.InferenceSession(graph).run(None, {"x": x})[0] for graph in (small, exact)
    )
    assert len(small) < 0.4 * len(exact)
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())


def test_a_closer_look_leaves_the_rest_of_the_folder_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "image.onnx").write_bytes(b"tower")
    (tmp_path / "manifest.json").write_text('{"dim": 512, "sha256": {"image.onnx": "1"}}')
    add_files(tmp_path, {"regions.onnx": b"r", "words.onnx": b"w"}, entries={"match_weight": 0.25})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["sha256"].keys() == {"image.onnx", "regions.onnx", "words.onnx"}
    assert manifest["sha256"]["image.onnx"] == "1"
    assert manifest["match_weight"] == 0.25
    assert (tmp_path / "image.onnx").read_bytes() == b"tower"
    with pytest.raises(ValueError, match="may be 0"):
        add_files(tmp_path, {"regions.onnx": b"too big"}, most_bytes=5)
    assert (tmp_path / "regions.onnx").read_bytes() == b"r"
