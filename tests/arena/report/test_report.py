"""The files as a whole: structure, what is missing, strict JSON, and nothing half-written."""

import json
import math
import re
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from bayesify.arena.report import render_html, render_markdown, write_report
from bayesify.errors import DataError, SaveError

SECTIONS = [
    *("differences", "cost", "calibration", "chains", "scores", "costs"),
    *("prior", "caveats", "reading", "reproduce"),
]
VOID = {"meta", "link", "img", "br", "hr", "input", "base", "source"}


class Page(HTMLParser):
    """The elements and words of a page; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        HTMLParser.__init__(self)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def regression_html(examples: ModuleType) -> str:
    return render_html(examples.example())


@pytest.fixture(scope="module")
def hostile_html(examples: ModuleType) -> str:
    return render_html(examples.hostile())


def test_sections_come_in_order(regression_html: str) -> None:
    page = Page(regression_html)
    assert [name for name in page.ids if name in SECTIONS] == SECTIONS
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("h1") == 1
    assert page.tags.count("h2") == len(SECTIONS)


def test_first_screen_is_the_answer(examples: ModuleType, regression_html: str) -> None:
    sentence = examples.example()["sentence"]
    before_answer, after = regression_html.split("<h1>")
    assert after.startswith(sentence + "</h1>")
    assert "<svg" not in before_answer
    chips = Page(after.split("<ul", 1)[1].split("</ul>")[0].join(("<ul", "</ul>"))).text
    assert re.sub(r"\W+", " ", chips).split() == (["2", "better", "1", "equivalent", "5", "undecided", "1", "worse"])


def test_every_method_is_in_plot_and_tables(examples: ModuleType, regression_html: str) -> None:
    tables = regression_html.split("<table")
    forest = regression_html.split('class="wide">')[1].split("</svg>")[0]
    for method in examples.example()["methods"]:
        assert all(f'<th scope="row">{method["label"]}<' in table for table in tables[1:4])
        if not method["is_control"]:
            assert (
                forest.count(f'aria-label="{method["label"]}:')
                + forest.count(f'aria-label="{method["label"]} (reference):')
                == 2
            )  # its interval and its point


def test_drawings(examples: ModuleType, regression_html: str) -> None:
    assert regression_html.count("<svg ") == 2 + 3 + 13 + 3  # forest wide and narrow, fronts, reliability, chains
    both = render_html(examples.example("multiclass", budgets=True))
    assert both.count("<svg ") == 2 + 3 + 12 + 13 + 3
    assert [name for name in Page(both).ids if name == "curves"]
    assert "confidence is honest" in both


def test_the_prior_is_described_and_warned_of(examples: ModuleType, regression_html: str) -> None:
    words = " ".join(Page(regression_html).text.split())
    assert "100 functions were drawn from it, on 500 training inputs" in words
    assert "Most of them are neither saturated, nor constant, nor exploding." in words
    classes = examples.example("multiclass")
    for written in (render_html(classes), render_markdown(classes)):
        assert "12% of functions, 8% with certainty" in written
        assert "4% of that of equal chances" in written
        assert "Prior functions are saturated: their largest class probability is 0.971" in written
        assert "Most of them" not in written
    flat = render_html({"prior_check": {"prior": "<b>Flat()", "reason": "improper <i>"}})
    assert "No functions were drawn from &lt;b&gt;Flat(): improper &lt;i&gt;" in flat
    assert "What the prior believes" not in render_html({})
    for partial in (None, 3, {"prior": "Normal()"}, {"num_functions": 3, "num_inputs": 4}):
        render_html({"prior_check": partial})


def test_page_is_self_contained_and_small(regression_html: str) -> None:
    page = Page(regression_html)
    assert len(regression_html) < 600_000
    assert page.tags.count("script") == 1
    targets = [value for _, name, value in page.attributes if name in ("href", "src", "srcset", "action", "data")]
    assert all(value is not None and value.startswith(("#", "data:")) for value in targets), targets
    assert "url(" not in regression_html
    assert "@import" not in regression_html
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", regression_html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, never fetched


def test_no_number_is_raw(regression_html: str) -> None:
    words = Page(regression_html).text
    assert not re.findall(r"\d\.\d{6,}", words)
    assert not re.findall(r"\d[eE][-+]?\d", words)
    assert "nan" not in words.lower().split()
    assert "None" not in words


@pytest.mark.parametrize("attack", ["<script>alert(1)</script>", "<img src=x onerror=alert(2)>"])
def test_user_strings_are_text(hostile_html: str, attack: str) -> None:
    page = Page(hostile_html)
    assert attack in page.text
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not [value for _, name, value in page.attributes if name == "href" and "javascript" in (value or "")]
    assert page.tags.count("style") == 1
    assert "{{7*7}}" in page.text
    assert "49" not in page.text.split("{{7*7}}")[0]


def test_unescaped_page_would_fail(hostile_html: str) -> None:
    """The control of the test above: a page with one string let through is caught."""
    leaky = hostile_html.replace("<h1>", "<h1><img src=x onerror=alert(2)>")
    page = Page(leaky)
    assert "img" in page.tags
    assert [name for _, name, _ in page.attributes if name.startswith("on")]


def test_hostile_names_do_not_turn_text_or_break_files(hostile_html: str, examples: ModuleType) -> None:
    assert not set("\u202e\x00\ud800") & set(hostile_html)
    hostile_html.encode()
    markdown = render_markdown(examples.hostile())
    markdown.encode()
    code = [line for line in markdown.splitlines() if line.startswith("    ")]
    outside = "\n".join(line for line in markdown.splitlines() if line not in code)
    assert "<script" not in outside
    assert "<img" not in outside
    assert not re.search(r"(?<!\\)\[x(?<!\\)\]\(", outside)
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows[: 2 + 13]}
    assert len(cells) == 1  # no pipe of the user's opened a column


def test_half_finished_says_what_is_missing(examples: ModuleType) -> None:
    html = render_html(examples.half_finished())
    words = Page(html).text
    assert "39 of 65 runs are done, 2 failed" in words
    assert "failed: out of memory: the GGN of 215,370 parameters needs 186 GB" in words
    assert "not run yet" in words
    assert "6 without a verdict" in words
    assert "splits 3, 4 of seed 0" in words
    assert html.split('class="wide">')[1].split("</svg>")[0].count('aria-roledescription="point"') == 6
    markdown = render_markdown(examples.half_finished())
    assert "39 of 65 runs are done, 2 failed" in markdown
    assert "out of memory" in markdown


def test_complete_result_shows_no_notice(regression_html: str) -> None:
    assert "Partial result" not in regression_html


def test_caveats_name_unspent_budget_and_shared_machine(regression_html: str) -> None:
    words = Page(regression_html.split('id="caveats"')[1].split("</section>")[0].join(("<p ", "</p>"))).text
    assert "Laplace (kron) (38% spent)" in words
    assert "seconds are not comparable" in words
    assert "standard splits of this data set overlap" in words


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"methods": []},
        {"methods": [{}]},
        {"methods": [{"name": "swag", "status": "failed", "reason": "diverged"}], "control": "deep_ensemble"},
        {"schema": 1, "methods": None, "task": None, "reliability": None, "curve": None, "missing": None},
        {"methods": "swag", "task": [], "budget": 3, "caveats": "one", "progress": {"done": None}, "level": 7},
        {"methods": [None, 3, {"name": None, "scores": None, "difference": {"estimate": None}}]},
        {
            "methods": [
                {"name": "map", "scores": {"nll": [1]}, "scores_by_split": {"nll": 3}, "spent": {"seconds": "1"}}
            ]
        },
        {"reliability": {"gone": [{"confidence": 0.5}]}, "curve": [{"multiple": 1}, {}], "missing": [{}]},
    ],
)
def test_anything_may_be_missing(result: dict[str, Any]) -> None:
    page = Page(render_html(result))
    assert [name for name in page.ids if name in SECTIONS] == [
        name for name in SECTIONS if name not in ("chains", "prior")
    ]
    assert render_markdown(result).startswith("# There is no answer yet")
    assert "None" not in page.text.replace("None was recorded", "")


def test_every_value_null(examples: ModuleType) -> None:
    def nulled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: nulled(item) for key, item in value.items()}
        return [nulled(item) for item in value] if isinstance(value, list) else None

    result = nulled(examples.example(budgets=True))
    page = Page(render_html(result))
    assert "None" not in page.text.replace("None was recorded", "")
    render_markdown(result)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300, pytest.param(10**400, id="huge")])
def test_every_number_bad(examples: ModuleType, bad: float, tmp_path: Path) -> None:
    def spoiled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spoiled(item) for key, item in value.items() if key != "schema"}
        if isinstance(value, list):
            return [spoiled(item) for item in value]
        return bad if isinstance(value, int | float) and not isinstance(value, bool) else value

    paths = write_report(spoiled(examples.example("multiclass", budgets=True)), tmp_path)
    Page(paths.html.read_text(encoding="utf-8"))
    json.loads(paths.json.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_one_diverged_method_does_not_squeeze_the_rest(examples: ModuleType) -> None:
    result = examples.example()
    result["methods"][-1]["difference"].update(estimate=-9.4, low=-14.0, high=-4.9)
    result["methods"][-1]["scores"]["nll"] = math.inf
    result["methods"][1]["difference"].update(estimate=-math.inf, low=-math.inf, high=-math.inf)
    html = render_html(result)
    assert "Arrows at the edge" in html
    assert "−9.400 [−14.000, −4.900]" in html
    assert "−∞ [−∞, −∞]" in html
    assert html.split('class="wide">')[1].split("</svg>")[0].count("◀") == 2
    points = re.findall(
        r'aria-label="Multi[^"]*" role="graphics-symbol" aria-roledescription="point" transform="translate\(([\d.]+),',
        html.split('class="wide">')[1].split("</svg>")[0],
    )
    places = [float(x) for x in points]
    assert len(places) == 3
    assert max(places) - min(places) > 10  # differences of 0.02 are still seen, pixels


def test_json_is_strict_and_whole(examples: ModuleType, tmp_path: Path) -> None:
    result = examples.example()
    result["methods"][0]["scores"].update(nll=math.nan, rmse=math.inf)
    result["methods"][1]["scores"]["nll"] = np.float32(1.5)
    result["task"]["rows"] = np.int64(1030)
    result["task"]["classes"] = np.array(["a", "b"])
    result["environment"]["timing_exclusive"] = np.bool_(True)
    result["environment"]["date"] = date(2026, 11, 5)
    text = write_report(result, tmp_path).json.read_text(encoding="utf-8")
    read = json.loads(text, parse_constant=pytest.fail)
    assert read["methods"][0]["scores"]["nll"] is None
    assert read["methods"][0]["scores"]["rmse"] is None
    assert read["methods"][1]["scores"]["nll"] == 1.5
    assert read["task"]["rows"] == 1030
    assert read["task"]["classes"] == ["a", "b"]
    assert read["environment"]["timing_exclusive"] is True
    assert read["environment"]["date"] == "2026-11-05"
    assert read["methods"][2:] == examples.example()["methods"][2:]


def test_report_can_be_made_again_from_its_json(examples: ModuleType, tmp_path: Path) -> None:
    first = write_report(examples.example(), tmp_path / "first")
    again = write_report(json.loads(first.json.read_text(encoding="utf-8")), tmp_path / "again")
    assert first.html.read_text(encoding="utf-8") == again.html.read_text(encoding="utf-8")


def test_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new" / "folder"
    paths = write_report({"sentence": "first"}, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "report.md"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SaveError, match=r"No space left on device; choose another folder"):
        write_report({"sentence": "second"}, folder)
    assert "first" in paths.html.read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "report.md"]


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(SaveError, match="cannot be written"):
        write_report({}, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_not_a_result() -> None:
    with pytest.raises(DataError, match="not from a list"):
        render_html([])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="schema 2 and this version of bayesify reads schema 1"):
        render_markdown({"schema": 2})
    with pytest.raises(TypeError, match="cannot hold a object"):
        render_html({"task": object()})
