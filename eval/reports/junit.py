"""JUnit XML, which build servers read: a test suite for each set, a test case for each question.

A broken answer is a failure where its set decides, and so are a floor, a rule and a limit that
do not hold, and a verdict that refuses. A question that both versions answer wrongly is skipped:
it says nothing on the change. Format: the schema that Jenkins' and GitLab's readers share
(testsuites / testsuite / testcase / failure, skipped, system-out).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from eval.reported import GateReport, SetReport, Verdict
from eval.reports.changed import Changed, changed, sets_of
from eval.reports.words import (
    between,
    key,
    limit_line,
    percent,
    points,
    rule_bound,
    slice_rule,
    verdict_in_words,
)
from eval.results import EvalResults, SetResults

# What XML 1.0 cannot hold.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: GateReport, results: EvalResults) -> bytes:
    """The file's content."""
    root = ET.Element("testsuites", name=_clean(f"gate of {report.alias}"))
    when = datetime.fromtimestamp(results.created, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    suites = [_whole(report, when)]
    for one, found in sets_of(report, results):
        if found is not None:
            suites.append(_suite(one, found, results, when))
    for suite in suites:
        _count(suite)
        root.append(suite)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    root.set("time", f"{report.seconds:.3f}")
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _whole(report: GateReport, when: str) -> ET.Element:
    suite = ET.Element("testsuite", name="verdict", timestamp=when, time=f"{report.seconds:.3f}")
    case = _case(suite, report.alias, f"{report.candidate} against {report.baseline}")
    said = "\n".join([verdict_in_words(report), *report.reasons])
    _judged(case, report.verdict, f"{report.candidate}: {report.verdict}", said)
    return suite


def _suite(one: SetReport, found: SetResults, results: EvalResults, when: str) -> ET.Element:
    suite = ET.Element("testsuite", name=_clean(key(one)), timestamp=when)
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("role", one.role),
        ("candidate", percent(one.candidate)),
        ("baseline", percent(one.baseline)),
        ("difference", f"{points(one.difference)} points, {between(one.interval)}"),
        ("margin", f"{100 * one.margin:g} points"),
        ("question_hash", one.question_hash),
    ):
        ET.SubElement(properties, "property", name=name, value=_clean(value))
    counts = one.role != "informative"
    at = f"{results.alias}.{key(one)}"
    verdict = _case(suite, at, "the set as a whole")
    _judged(verdict, one.verdict, f"{one.verdict}", "\n".join(one.reasons), counts=counts)
    for name, part in one.slices.items():
        if part.verdict is not None:
            case = _case(suite, at, f"slice {name}: {slice_rule(part)}")
            text = f"{percent(part.candidate)} against {percent(part.baseline)}"
            _judged(case, part.verdict, f"slice {name}: {text}", text, counts=counts)
    for rule in one.rules:
        case = _case(suite, at, f"rule {rule.rule}: {rule_bound(rule)}")
        text = f"broken by {percent(rule.candidate)} of the answers: {', '.join(rule.questions)}"
        _judged(case, rule.verdict, f"rule {rule.rule}", text, counts=counts)
    for limit in one.limits:
        case = _case(suite, at, f"limit {limit.limit}")
        _judged(case, limit.verdict, limit_line(limit), limit_line(limit), counts=counts)
    kinds = {item.id: item for item in changed(one, found, results)}
    for question in found.questions:
        asked = found.answers.get(results.candidate, {}).get(question.id, [])
        seconds = sum(answer.latency_s for answer in asked if not answer.cached)
        case = _case(suite, f"{at}.{question.slice}" if question.slice else at, question.id)
        case.set("time", f"{seconds:.3f}")
        item = kinds.get(question.id)
        if item is None or item.kind == "fixed":
            continue
        if item.kind == "broken" and counts:
            failure = ET.SubElement(case, "failure", type="broken", message=_message(item))
            failure.text = _clean(_told(item, results))
        else:
            said = "wrong with both versions" if item.kind == "both wrong" else "broken"
            ET.SubElement(case, "skipped", message=f"{said}; it decides nothing")
    return suite


def _message(item: Changed) -> str:
    if item.row is not None:
        return _clean(f"row {item.row}: its texts are on the review page")
    why = next((said.why for said in item.after if said.why), "the other answer is preferred")
    return _clean(f"the answer {why}" if item.after else why)[:500]


def _told(item: Changed, results: EvalResults) -> str:
    lines = [f"{role}: {text}" for role, text in item.turns]
    lines += [f"wanted: {item.wanted}"] if item.wanted else []
    for model, said in ((results.baseline, item.before), (results.candidate, item.after)):
        lines += [f"{model}: {answer.text}" for answer in said]
    return "\n".join(lines)


def _case(suite: ET.Element, classname: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=_clean(classname), name=_clean(name))


def _judged(
    case: ET.Element, verdict: Verdict, message: str, text: str, *, counts: bool = True
) -> None:
    """A case that fails unless the verdict is a pass; of what decides nothing it is skipped."""
    if verdict == "pass":
        return
    if not counts:
        ET.SubElement(case, "skipped", message=_clean(f"{message}; it decides nothing"))
        return
    failure = ET.SubElement(case, "failure", type=verdict, message=_clean(message))
    failure.text = _clean(text)


def _count(suite: ET.Element) -> None:
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    if suite.get("time") is None:
        spent = sum(float(case.get("time", "0")) for case in suite.findall("testcase"))
        suite.set("time", f"{spent:.3f}")


def _clean(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
