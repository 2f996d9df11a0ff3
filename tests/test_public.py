from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from conftest import ToyEncoder

import mmsearch
from mmsearch.encoders import Runtime
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.registry import REGISTRY


def test_the_public_names_are_these():
    assert mmsearch.__all__ == [
        "Collection",
        "Facets",
        "Failure",
        "Hit",
        "Item",
        "MMSearchError",
        "Query",
        "Report",
        "SearchPage",
        "Signal",
        "Span",
        "__version__",
        "copy",
        "encode",
        "evaluate",
        "index",
        "load_encoder",
        "no_good_match",
        "open",
    ]
    assert all(hasattr(mmsearch, name) for name in mmsearch.__all__)


def test_a_hit_has_what_the_contract_promises():
    assert list(mmsearch.Hit.__dataclass_fields__) == [
        "rank",
        "id",
        "path",
        "modality",
        "score",
        "confidence",
        "span",
        "caption",
        "metadata",
        "signals",
    ]


def hit(confidence: float | None) -> mmsearch.Hit:
    return mmsearch.Hit(1, 1, "a.jpg", "image", 0.3, confidence, None, None, {}, {})


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [([], True), ([0.2, 0.499], True), ([0.2, 0.5], False), ([0.1, None], True), ([None], False)],
)
def test_python_can_ask_whether_there_is_a_good_match(confidences, expected):
    assert mmsearch.no_good_match(map(hit, confidences)) is expected


def test_every_public_name_is_documented():
    for name in set(mmsearch.__all__) - {"__version__"}:
        thing = getattr(mmsearch, name)
        assert inspect.getdoc(thing), name
        for attribute, member in vars(thing).items() if inspect.isclass(thing) else ():
            if not attribute.startswith("_") and callable(member):
                assert inspect.getdoc(member), f"{name}.{attribute}"


def test_encoders_run_on_what_is_asked_for(toy, photos, tmp_path, monkeypatch):
    asked = []

    class Recording(SingleModel):
        has_runtimes = True

        def load(self, name, how):
            asked.append((name, how))
            return toy

    monkeypatch.setitem(REGISTRY, "toy", Recording("toy", ToyEncoder))
    how = {"runtime": "onnx", "device": "cuda", "precision": "int8"}
    mmsearch.load_encoder("toy:x", **how)
    assert asked == [("toy:x", Runtime(**how))]
    mmsearch.index(photos, tmp_path / "idx", model="toy", **how).close()
    with mmsearch.open(tmp_path / "idx", **how) as library:
        assert library.search("red")
    assert set(asked[1:]) == {("toy", Runtime(**how))}
    with pytest.raises(mmsearch.MMSearchError, match="auto, fp32, bf16, int8"):
        mmsearch.load_encoder("toy:x", precision="int7")


USES = """
import mmsearch

def use(library: mmsearch.Collection) -> list[mmsearch.Hit]:
    library.search_many(queries=["a dog"], k=3)
    library.similar(path="dog.jpg", target="image")
    library.search_page(k=3), library.search_page("a dog"), library.facets(where={"tag": "dog"})
    return library.search(query="a dog", k=3) + library.search("a dog", spans=True)
"""
MISUSES = [
    'library.search("a dog", k="three")',
    'library.search("a dog", number=3)',
    'library.search("a dog", 3)',
    'library.similar(query="a dog")',
    "library.search_page(5)",
]


def test_type_checkers_know_the_arguments_of_a_search(tmp_path):
    api = pytest.importorskip("mypy.api")
    calls = "".join(f"    {call}\n" for call in MISUSES)
    (tmp_path / "uses.py").write_text(
        f"{USES}\ndef misuse(library: mmsearch.Collection) -> None:\n{calls}"
    )
    config = Path(mmsearch.__file__).parent.parent / "pyproject.toml"  # shares the cache of a check
    words = [f"--config-file={config}", "--no-error-summary", str(tmp_path / "uses.py")]
    shown, _, _ = api.run(words)
    errors = [line for line in shown.splitlines() if ": error: " in line]
    wrong = [int(line.split(":")[1]) - USES.count("\n") - 2 for line in errors]
    assert wrong == [1, 2, 3, 4, 5], shown
