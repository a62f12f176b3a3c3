"""An evaluation's page has its numbers, needs nothing else, and is there as a whole or not at all."""

import re
import resource
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import it3
import matplotlib as mpl
import pytest
import torch
from browser import measured
from matplotlib import pyplot as plt
from test_evaluation import engine_and_batches
from test_evaluation_controls import classifier

EVIL = "<script>document.title = 'evil'</script>"
VOID = {"meta", "link", "img", "br", "hr", "input", "source"}


class Page(HTMLParser):
    """What a page holds; raises AssertionError for elements that are not closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))
        if "th" in self.open or "td" in self.open:
            self.tables[-1][-1][-1] += data

    def all_of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text_in(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def page_of(evaluation: it3.Evaluation, path: Path) -> Page:
    evaluation.report(path)
    return Page(path.read_text(encoding="utf-8"))


def evaluated(**arguments: Any) -> it3.Evaluation:
    engine, batches = classifier("cnn", size=1)
    variants = {"plain": {"num_steps": 1}, EVIL: {"lr": 0.01}, "$\\frac \" & ' 日本語\n€": {"parameters": "norm"}}
    groups = [[EVIL], ["b"], [("fog", 3)], [4], ["ü"]]
    how = {"groups": groups, "resamples": 200, "repairs": {"<b>": lambda x: x}} | arguments
    return it3.evaluate(engine, batches, "accuracy", variants, **how)


def table_numbers(cells: list[str]) -> list[float]:
    return [float(number) for cell in cells for number in re.findall(r"[-+]?(?:\d+\.\d+|nan)", cell)]


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_table_has_the_numbers_of_the_rows(seeds: int, tmp_path: Path) -> None:
    evaluation = evaluated(seeds=seeds)
    page = page_of(evaluation, tmp_path / "report.html")
    titles, *rows = page.tables[0]
    of_runs = ["sd"] * (seeds > 1)
    assert titles == ["row", "accuracy", *of_runs, "gain", "95 % interval", "ECE", "worst group", "ms", "MB"]
    for cells, row in zip(rows, evaluation.rows, strict=True):
        assert cells[0].removesuffix(" (best control)") == row["name"]
        assert cells[0].endswith("(best control)") == (row["name"] == evaluation.best_control)
        of_gain = [] if row["name"] == "0 steps" else [row["gain"], row["low"], row["high"]]
        expected = [row["score"], *(row[name] for name in of_runs), *of_gain, row["ece"]]
        assert table_numbers(cells[1:-3]) == pytest.approx(expected, abs=1e-4)
        assert cells[-3].split(" ", 1) == [f"{row['worst']:.4f}", row["worst_group"]]
        assert table_numbers(cells[-2:]) == pytest.approx([row["milliseconds"], row["megabytes"]], abs=0.1)
    assert [text for text in page.text_in("li") if text.strip()] == evaluation._sentences()
    assert "\n".join(evaluation._sentences()) == evaluation.verdict
    samples = f"{seeds} run{'s' * (seeds > 1)} with\n{5 * seeds} batches and\n{5 * seeds} samples in all"
    assert any(samples in text for text in page.text_in("p"))
    assert str(evaluation).splitlines()[0].split()[: 2 + len(of_runs)] == ["accuracy", *of_runs, "gain"]
    assert ("sd" in page.text_in("dt")) == (seeds > 1)


def test_the_picture_names_the_rows_and_takes_the_pages_colors(tmp_path: Path) -> None:
    evaluation = evaluated()
    page = page_of(evaluation, tmp_path / "report.html")
    texts = page.text_in("text")
    assert {"plain", "0 steps", "variant", "best control", "control"} <= set(texts)
    assert any(text.startswith("gain in accuracy") for text in texts)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "currentColor" in text
    assert "#010203" not in text
    (picture,) = [attributes for attributes in page.all_of("div") if attributes.get("role") == "img"]
    assert "gain of each row" in picture["aria-label"]


def test_groups_are_sorted_by_0_steps_and_all_there(tmp_path: Path) -> None:
    engine, batches = engine_and_batches()
    batches = [(x, y) for whole in batches * 60 for x, y in zip(whole[0].split(1), whole[1].split(1), strict=True)]
    batches = [(x + 0.1 * place, y) for place, (x, y) in enumerate(batches[:300])]
    groups = [f"group {place}" for place in range(300)]
    evaluation = it3.evaluate(engine, batches, "mse", {"a": {"num_steps": 1}}, groups=groups, resamples=100)
    page = page_of(evaluation, tmp_path / "report.html")
    shown = list(dict.fromkeys(["0 steps", evaluation.best_control, "a"]))
    rows = {row["name"]: row for row in evaluation.rows}
    _, worst, others = page.tables
    assert worst[0] == others[0] == ["group", *shown]
    assert (len(worst), len(others)) == (11, 291)
    found = [(cells[0], [float(cell) for cell in cells[1:]]) for cells in worst[1:] + others[1:]]
    order = sorted(groups, key=lambda group: -rows["0 steps"]["groups"][group])
    assert [group for group, _ in found] == order
    for group, scores in found:
        assert scores == pytest.approx([rows[name]["groups"][group] for name in shown], abs=1e-4)
    assert "The other 290 groups" in page.text_in("summary")


def test_worst_groups_of_a_score_of_which_more_is_better(tmp_path: Path) -> None:
    evaluation = evaluated()
    worst = page_of(evaluation, tmp_path / "report.html").tables[1]
    scores = [float(cells[1]) for cells in worst[1:]]
    assert scores == sorted(scores)
    assert {cells[0] for cells in worst[1:]} == {EVIL, "b", "('fog', 3)", "4", "ü"}


def test_names_are_text_and_nothing_is_loaded(tmp_path: Path) -> None:
    page = page_of(evaluated(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not page.all_of("script")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"link", "iframe", "object", "embed", "img", "image", "base", "b"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    assert all(address.startswith("#") for address in re.findall(r"url\(['\"]?([^)]*)", text))
    assert "@import" not in text
    # What is left are the names of SVG's languages, which nobody fetches.
    assert set(re.findall(r"https?://[^\"'\s<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_page_is_accessible_and_says_how_to_read_it(tmp_path: Path) -> None:
    page = page_of(evaluated(), tmp_path / "report.html")
    assert page.all_of("html")[0]["lang"] == "en"
    assert len(page.all_of("h1")) == len(page.all_of("main")) == 1
    assert all(cell.get("scope") in ("row", "col") for cell in page.all_of("th"))
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all_of("meta")
    assert all(region["aria-label"] for region in page.all_of("div") if region.get("role") == "region")
    terms = {text.lower() for text in page.text_in("dt")}
    assert {"0 steps", "y1", "batch statistics", "balanced classes", "entropy minimization", "best control"} <= terms
    assert {"holm's correction", "interval", "ece", "worst group"} <= terms
    footer = "".join(text for _, text in page.texts[-8:])
    assert f"it3 {it3.__version__}, torch {torch.__version__}, " in footer
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", page.all_of("time")[0]["datetime"])


def test_one_run_of_one_batch_without_groups(tmp_path: Path) -> None:
    engine, batches = engine_and_batches()
    evaluation = it3.evaluate(engine, batches[:1], "mse")
    page = page_of(evaluation, tmp_path / "report.html")
    assert len(page.tables) == 1
    assert "Worst groups" not in page.text_in("h2")
    assert page.tables[0][0] == ["row", "mse", "gain", "ms", "MB"]
    assert not {"ECE", "Worst group"} & set(page.text_in("dt"))


def test_a_control_that_failed_is_a_row_and_a_sentence(tmp_path: Path) -> None:
    engine, batches = classifier("mlp")
    still = {"num_steps": 9, "lr": 1.7e307, "distance_fn": lambda y1, y0: 0 * (y1 + y0).sum()}
    evaluation = it3.evaluate(engine, batches, "accuracy", {"still": still}, groups=["g"] * len(batches))
    page = page_of(evaluation, tmp_path / "report.html")
    (cells,) = [cells for cells in page.tables[0] if cells[0] == "entropy minimization, still"]
    assert cells[1] == "nan"
    assert any(text.startswith("entropy minimization, still: failed; ") for text in page.text_in("li"))
    assert page.text_in("text").count(" failed") + page.text_in("text").count("failed") == 2


def test_names_that_are_no_text(tmp_path: Path) -> None:
    engine, batches = engine_and_batches()
    variants = {"file \udcff": {}, "bell \x07": {}, "long " * 90: {}, "_hidden": {}, "": {}}
    page = page_of(it3.evaluate(engine, batches, "mse", variants, resamples=100), tmp_path / "report.html")
    names = [cells[0] for cells in page.tables[0][-5:]]
    assert names[0] == "file \\udcff"
    assert names[2:] == ["long " * 90, "_hidden", ""]


def test_a_report_appears_as_a_whole_or_leaves_the_earlier_one(tmp_path: Path) -> None:
    engine, batches = engine_and_batches()
    evaluation = it3.evaluate(engine, batches, "mse", resamples=100)
    path = tmp_path / "report.html"
    path.write_text("earlier")
    missing = tmp_path / "missing" / "report.html"
    with pytest.raises(RuntimeError, match=f"cannot write '{re.escape(str(missing))}': No such file or directory"):
        evaluation.report(missing)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(RuntimeError, match=r"cannot write '.*report.html': File too large"):
            evaluation.report(str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(RuntimeError, match="it is a folder"):
        evaluation.report(tmp_path)
    evaluation.report(path)
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_matplotlib_is_as_it_was_and_does_not_decide_how_the_page_looks(tmp_path: Path) -> None:
    evaluation = it3.evaluate(*engine_and_batches(), "mse", resamples=100)
    evaluation.report(tmp_path / "plain.html")
    with plt.style.context("dark_background"), mpl.rc_context({"font.size": 30, "svg.fonttype": "path"}):
        settings, figures = dict(mpl.rcParams), plt.get_fignums()
        evaluation.report(tmp_path / "dark.html")
        assert dict(mpl.rcParams) == settings
        assert plt.get_fignums() == figures
    svgs = [(tmp_path / name).read_text().split("<svg")[1] for name in ("plain.html", "dark.html")]
    assert svgs[0].split("</svg>")[0] == svgs[1].split("</svg>")[0]


def test_notebooks_show_the_table_and_the_verdict() -> None:
    evaluation = evaluated()
    text = evaluation._repr_html_()
    page = Page(text)
    assert [cells[0].removesuffix(" (best control)") for cells in page.tables[0][1:]] == [
        row["name"] for row in evaluation.rows
    ]
    assert [item for item in page.text_in("li") if item.strip()] == evaluation._sentences()
    assert "<script" not in text
    assert not {"html", "body", "style", "svg"} & {tag for tag, _ in page.elements}


@pytest.mark.browser
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    evaluated().report(path)
    measure = """{title: document.title, loaded: performance.getEntriesByType("resource").length,
        page: document.documentElement.scrollWidth, width: innerWidth,
        background: getComputedStyle(document.body).backgroundColor, text: getComputedStyle(document.body).color,
        drawn: document.querySelector("svg").getBoundingClientRect().height,
        ink: getComputedStyle([...document.querySelectorAll("svg text")].at(-1)).fill,
        rows: document.querySelectorAll("table")[0].rows.length}"""
    for width, dark in ((1280, False), (360, False), (360, True)):
        found = measured(path, width, measure, dark=dark)
        assert found["title"] == "Does adaptation help? accuracy"
        assert found["loaded"] == 0
        assert found["page"] <= found["width"] == width
        assert found["drawn"] > 150
        assert found["rows"] > 10
        assert found["background"] == ("rgb(22, 22, 22)" if dark else "rgb(255, 255, 255)")
        assert found["ink"] == found["text"]
