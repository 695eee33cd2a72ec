"""Reports of a gate: for a terminal, a build server, a pull request and a browser."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree as ET

import pytest
from browser import PHONE, axe_findings, is_wider_than_the_screen, screenshot
from gate_made import SECRET, made
from rich.console import Console

from eval.reports import JUNIT, MARKDOWN, PAGE, PICTURE, print_report, write_reports
from eval.reports.changed import changed
from eval.reports.junit import junit
from eval.reports.markdown import markdown
from eval.reports.page import page, pieces

FILES = (MARKDOWN, JUNIT, PAGE, PICTURE)


def printed(report, results=None, **options):
    console = Console(file=io.StringIO(), width=100, **options)
    print_report(report, results, console)
    return console.file.getvalue()


# -- the terminal ------------------------------------------------------------------------------


def test_a_log_has_one_line_a_set_and_no_box_or_colour():
    report, results = made()
    text = printed(report, results)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100
    for line in (
        r"gold +20 +85.0% +90.0% +-5.0 +-10.0 to \+0.0 +2 +1/2 +fail",
        r"house/form \(informative\) +6 .* underpowered",
        r"house/past \(guard\) +4 .* pass",
        r"letters \| post +10 +90% +100% +-10.0 +at least 95% +fail",
    ):
        assert re.search(line, text), line
    assert "Verdict: FAIL - support@v2 gives worse answers than support@v1" in text
    assert "no_control_tokens broken by 10.0%" in text
    assert "2.00 times as much (at most 1.5 times as much): fail" in " ".join(text.split())
    assert "50 answers asked now, 10 known from earlier gates." in text


def test_the_terminal_lists_what_broke_and_names_users_rows_only():
    report, results = made()
    text = printed(report, results, force_terminal=True)
    assert "q1: Where is order 1?" in text
    assert "the <b>billing</b> team of support@v2  (is not 'delivery')" in text
    assert "row chatcmpl-0" in text
    assert "q101" not in text  # its set decides nothing
    assert SECRET not in text
    assert "\x1b[31mfail" in text


def test_many_slices_are_cut_to_the_worst():
    report, _ = made("pass")
    one = report.sets[0]
    part = one.slices["parcels"]
    many = {f"s{n:02d}": part.model_copy(update={"candidate": n / 100}) for n in range(77)}
    report = report.model_copy(
        update={"sets": [one.model_copy(update={"slices": many, "rules": [], "limits": []})]}
    )
    text = printed(report)
    assert "and 57 more slices, none of which lost more" in text
    assert "s00" in text
    assert "s70" not in text


# -- JUnit -------------------------------------------------------------------------------------


def suites(report, results):
    root = ET.fromstring(junit(report, results))
    return root, {suite.get("name"): suite for suite in root}


def outcome(case):
    return next((part.tag for part in case if part.tag in ("failure", "skipped")), "passed")


def test_junit_has_a_suite_a_set_and_a_case_a_question():
    report, results = made()
    root, found = suites(report, results)
    assert (root.tag, list(found)) == (
        "testsuites",
        ["verdict", "gold", "house/form", "house/past"],
    )
    cases = {case.get("name"): case for case in found["gold"].iter("testcase")}
    assert {name: outcome(cases[name]) for name in ("q0", "q1", "q9", "q11")} == {
        "q0": "passed",
        "q1": "failure",
        "q9": "skipped",  # wrong with both: it says nothing on the change
        "q11": "passed",
    }
    failure = cases["q1"].find("failure")
    assert failure.get("message") == "the answer is not 'delivery'"
    assert "user: Where is order 1?" in failure.text
    assert cases["q0"].get("classname") == "support.gold.letters | post"
    assert cases["q0"].get("time") == "0.500"
    slice_case = cases["slice letters | post: at least 95%"]
    assert outcome(slice_case) == "failure"
    assert outcome(cases["rule no_control_tokens: at most 0.0%"]) == "failure"
    assert outcome(cases["limit completion_tokens"]) == "failure"


def test_junit_fails_for_what_decides_and_skips_what_does_not():
    report, results = made()
    _, found = suites(report, results)
    cases = {case.get("name"): case for case in found["house/form"].iter("testcase")}
    assert outcome(cases["q101"]) == outcome(cases["the set as a whole"]) == "skipped"
    (verdict,) = found["verdict"].iter("testcase")
    assert verdict.find("failure").get("type") == "fail"
    report, results = made("pass")
    (verdict,) = suites(report, results)[1]["verdict"].iter("testcase")
    assert outcome(verdict) == "passed"


def test_junits_counts_add_up():
    report, results = made()
    root, found = suites(report, results)
    for name in ("tests", "failures", "errors", "skipped"):
        assert int(root.get(name)) == sum(int(suite.get(name)) for suite in found.values())
    for suite in found.values():
        cases = list(suite.iter("testcase"))
        assert int(suite.get("tests")) == len(cases)
        assert int(suite.get("failures")) == sum(outcome(case) == "failure" for case in cases)
        assert {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"} == set(
            suite.keys()
        )


def test_junit_holds_no_character_that_xml_cannot():
    report, results = made()
    one = results.sets[0]
    answers = {
        model: {
            number: [said.model_copy(update={"text": "a\x00b\x1b[31m\ufffe"}) for said in samples]
            for number, samples in given.items()
        }
        for model, given in one.answers.items()
    }
    sets = [one.model_copy(update={"answers": answers}), *results.sets[1:]]
    assert ET.fromstring(junit(report, results.model_copy(update={"sets": sets}))) is not None


# -- Markdown ----------------------------------------------------------------------------------


def test_markdown_has_the_sets_and_the_changes_and_no_markup_of_models():
    report, results = made()
    text = markdown(report, results)
    assert text.startswith("# Gate of support: fail\n")
    assert "| gold | required | 20 | 85.0% | 90.0% | -5.0 |" in text
    assert "| letters \\| post | 10 |" in text
    assert "the \\<b\\>billing\\</b\\> team" in text
    for summary in ("gold: broken \\(2\\)", "gold: fixed \\(1\\)", "gold: both wrong \\(1\\)"):
        assert summary in text
    assert "- row `chatcmpl-0`" in text
    rows = [line for line in text.splitlines() if line.startswith("| q")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}


# -- the page ----------------------------------------------------------------------------------


def test_every_changed_answer_is_found():
    report, results = made()
    found = [
        (item.kind, item.id)
        for one, said in zip(report.sets, results.sets, strict=True)
        for item in changed(one, said, results)
    ]
    assert found == [
        ("broken", "q1"),
        ("broken", "q2"),
        ("fixed", "q11"),
        ("both wrong", "q9"),
        ("broken", "q101"),
        ("broken", "chatcmpl-0"),
        ("fixed", "chatcmpl-1"),
        ("fixed", "chatcmpl-2"),
    ]
    item = changed(report.sets[0], results.sets[0], results)[3]
    old, new = pieces(item, 0)
    assert "".join(part.text for part in old) == item.before[0].text
    assert [part.text for part in old if part.kind != "same"] == ["v1"]
    assert [part.text for part in new if part.kind != "same"] == ["v2"]


def test_the_page_needs_nothing_from_anywhere():
    report, results = made()
    text = page(report, results)
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"""(?:src|href)=["'](?!#)""", text)
    assert "<b>billing" not in text
    assert SECRET not in text


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_the_page_in_a_browser_without_scripts(browser, tmp_path, look):
    options = {"light": {}, "dark": {"color_scheme": "dark"}, "phone": {"viewport": PHONE}}[look]
    report, results = made()
    write_reports(report, results, tmp_path)
    context = browser.new_context(java_script_enabled=False, **options)
    tab = context.new_page()
    tab.goto((tmp_path / PAGE).as_uri())
    shown = tab.locator(".item:visible")
    assert shown.count() == 8
    for name, count in (("broken 4", 4), ("fixed 3", 3), ("both wrong 1", 1), ("all 8", 8)):
        tab.get_by_label(name).check()
        assert shown.count() == count
    screenshot(tab, f"gate-{look}")
    context.close()
    context = browser.new_context(bypass_csp=True, **options)  # what looks for mistakes is a script
    tab = context.new_page()
    tab.goto((tmp_path / PAGE).as_uri())
    assert axe_findings(tab) == []
    assert not is_wider_than_the_screen(tab)
    context.close()


# -- all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["pass", "fail", "underpowered"])
def test_no_file_holds_what_users_wrote(tmp_path, verdict):
    report, results = made(verdict)
    assert [path.name for path in write_reports(report, results, tmp_path)] == list(FILES)
    for name in FILES:
        content = (tmp_path / name).read_bytes()
        assert SECRET.encode() not in content
        assert len(content) > 1000
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert "chatcmpl-0" in (tmp_path / PAGE).read_text()


def test_a_candidate_that_is_not_live_has_reports_too(tmp_path):
    report, results = made()
    nothing = {"sets": [], "gold_candidate": None, "gold_baseline": None, "fixed": [], "broken": []}
    nothing |= {"difference": None, "interval": None, "p_value": None, "slices": {}, "also": {}}
    report = report.model_copy(update=nothing | {"reasons": ["it answers like the base"]})
    write_reports(report, results, tmp_path)
    for name in (MARKDOWN, JUNIT, PAGE):
        assert "it answers like the base" in (tmp_path / name).read_text()
    assert "not really live" in printed(report, results)
