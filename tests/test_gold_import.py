"""Gold sets from promptfoo, inspect_ai and OpenAI evals: what comes over, and what is named."""

import json

import pytest
import yaml
from click.testing import CliRunner

from eval.goldimport import Options, import_gold
from flywheel.cli import cli
from ledger import checking
from ledger.errors import GoldError, UsageError
from ledger.gold import load_gold


def write(path, content):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in content))
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    elif path.suffix in (".yaml", ".yml"):
        path.write_text(yaml.safe_dump(content, sort_keys=False))
    else:
        path.write_text(content)
    return path


def passes(question, text):
    return checking.score(question, text).value == 1.0


def reasons(made):
    return {one.where: one.reason for one in made.left_out}


# -- promptfoo ---------------------------------------------------------------------------------


def promptfoo(tmp_path, **config):
    return import_gold(write(tmp_path / "promptfooconfig.yaml", config), "promptfoo")


def asserted(tmp_path, *asserts):
    test = {"vars": {"prompt": "Say it", "who": "Ann"}, "assert": list(asserts)}
    return promptfoo(tmp_path, tests=[test])


@pytest.mark.parametrize(
    ("one", "right", "wrong"),
    [
        ({"type": "equals", "value": "Hi {{who}}"}, "Hi Ann", "hi ann"),
        ({"type": "equals", "value": {"a": 1}}, '{"a": 1.0}', '{"a": 2}'),
        ({"type": "contains", "value": "an"}, "banana", "BANANA"),
        ({"type": "icontains", "value": "an"}, "BANANA", "cherry"),
        ({"type": "contains-any", "value": ["a", "b"]}, "xb", "x"),
        ({"type": "icontains-any", "value": "Red, Blue"}, "blue sky", "green"),
        ({"type": "contains-all", "value": ["a", "b"]}, "ab", "a"),
        ({"type": "icontains-all", "value": ["a", "b"]}, "AB", "A"),
        ({"type": "starts-with", "value": "A.B"}, "A.B c", "AxB"),
        ({"type": "regex", "value": r"^\d{3}$"}, "123", "1234"),
        ({"type": "is-json"}, "[1]", "one"),
        (
            {"type": "is-json", "value": {"type": "object", "required": ["queue"]}},
            '{"queue": "x"}',
            '{"no": 1}',
        ),
        ({"type": "is-json", "value": "type: array"}, "[]", "{}"),
        ({"type": "not-contains", "value": "sorry"}, "Done", "I am sorry"),
        ({"type": "not-equals", "value": "x"}, "y", "x"),
        ({"type": "not-contains-all", "value": ["a", "b"]}, "a", "ab"),
        ({"type": "not-contains-any", "value": ["a", "b"]}, "c", "a"),
        ({"type": "not-regex", "value": "[0-9]"}, "none", "1"),
        ({"type": "assert-set", "assert": [{"type": "contains", "value": "a"}]}, "a", "b"),
    ],
)
def test_promptfoos_assertions_that_compare_texts(tmp_path, one, right, wrong):
    made = asserted(tmp_path, one)
    assert made.left_out == []
    (question,) = made.questions
    assert passes(question, right)
    assert not passes(question, wrong)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        ({"type": "javascript", "value": "output.length < 5"}, "assertion javascript"),
        ({"type": "python", "value": "True"}, "assertion python"),
        ({"type": "llm-rubric", "value": "is kind"}, "assertion llm-rubric"),
        ({"type": "not-similar", "value": "x"}, "assertion not-similar"),
        ({"type": "contains-json"}, "assertion contains-json"),
        ({"type": "equals", "value": "x", "transform": "output.trim()"}, "equals with a transform"),
        ({"type": "equals", "value": "file://x.txt"}, "equals with a value in a file"),
        ({"type": "assert-set", "threshold": 0.5, "assert": []}, "assert-set with a threshold"),
        ({"type": "regex", "value": "("}, "not a regular expression"),
        ({"type": "equals", "value": "{{nobody}}"}, "'nobody' is undefined"),
        ({"type": "contains", "value": ""}, "a value that is no text"),
    ],
)
def test_promptfoos_other_assertions_leave_the_question_out_by_name(tmp_path, one, reason):
    made = asserted(tmp_path, {"type": "contains", "value": "a"}, one)
    assert made.questions == []
    assert reason in reasons(made)["test 1"]


def test_promptfoos_prompts_and_variables(tmp_path):
    chat = '[{"role": "system", "content": "Be brief"}, {"role": "user", "content": "{{q}}"}]'
    (tmp_path / "p.txt").write_text("One: {{q}}\n---\nTwo: {{q}}")
    made = promptfoo(
        tmp_path,
        prompts=[chat, "file://p.txt", {"raw": "Three: {{q}}", "label": "third"}, "file://p.py"],
        defaultTest={"vars": {"city": "Rome"}, "assert": [{"type": "contains", "value": "a"}]},
        tests=[
            {
                "description": "quotes",
                "vars": {"q": ['Say "{{city}}"', "And\nthis"]},
                "assert": [{"type": "icontains", "value": "{{city}}", "metric": "m"}],
                "metadata": {"kind": "towns"},
            }
        ],
    )
    texts = [question.messages[-1]["content"] for question in made.questions]
    asked = ['Say "Rome"', "And\nthis"]
    assert texts == [start + one for one in asked for start in ("", "One: ", "Two: ", "Three: ")]
    assert made.questions[0].messages[0] == {"role": "system", "content": "Be brief"}
    assert all(len(question.checks) == 2 for question in made.questions)
    assert reasons(made) == {"prompt 4": "a prompt made by .py"}
    assert made.notes == {"assertions' metric": 8, "tests' description": 1}
    assert len({question.id for question in made.questions}) == 8


def test_promptfoos_files_of_tests_and_what_reweighs_them(tmp_path):
    (tmp_path / "t.csv").write_text('prompt,__expected\nhello,"contains: hi"\nbye,Good bye: you\n')
    write(tmp_path / "t.yaml", [{"vars": {"prompt": "a"}, "assert": [{"type": "is-json"}]}])
    made = promptfoo(
        tmp_path,
        tests=[
            "file://t.csv",
            "file://t.yaml",
            "file://t.py",
            {"vars": {"prompt": "b"}, "threshold": 0.5, "assert": [{"type": "is-json"}]},
            {"vars": {"prompt": "c"}},
            {"vars": {"other": "c"}, "assert": [{"type": "is-json"}]},
            {"vars": {"prompt": "d"}, "assert": [{"type": "equals", "value": "x", "weight": 0}]},
        ],
    )
    assert [q.text for q in made.questions] == ["hello", "bye", "a"]
    assert passes(made.questions[1], "Good bye: you")
    found = reasons(made)
    assert found["test 3"] == "tests made by .py"
    assert found["test 4"].startswith("threshold")
    assert found["test 5"] == "no assertion"
    assert found["test 6"] == "template: 'prompt' is undefined"
    assert found["test 7"] == "nothing is demanded of the answer"


def test_templates_cannot_reach_the_machine(tmp_path):
    made = promptfoo(
        tmp_path,
        tests=[
            {
                "vars": {"prompt": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
                "assert": [{"type": "is-json"}],
            }
        ],
    )
    assert made.questions == []
    assert "template: " in reasons(made)["test 1"]


def test_a_file_that_is_not_promptfoos_is_named(tmp_path):
    with pytest.raises(GoldError, match="has no tests"):
        promptfoo(tmp_path, providers=["x"])
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(GoldError, match=r"x\.yaml cannot be read"):
        import_gold(tmp_path / "x.yaml", "promptfoo")


# -- inspect_ai --------------------------------------------------------------------------------


def test_inspects_samples(tmp_path):
    call = {"id": "c1", "function": "look", "arguments": {"city": "Rome"}}
    lines = [
        {"input": "2+2?", "target": "4", "id": 7, "metadata": {"level": "easy"}},
        {"input": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "target": "hi"},
        {"input": "Either?", "target": ["a", "b"], "difficulty": 3},
        {
            "input": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "sun", "tool_call_id": "c1"},
            ],
            "target": "sunny",
        },
        {"input": "Pick", "choices": ["a", "b"], "target": "A"},
        {"input": "Run", "target": "1", "sandbox": "docker"},
        {"input": [{"role": "user", "content": [{"type": "image"}]}], "target": "x"},
        {"input": "No target"},
        {"target": "no input"},
        {"input": "again", "target": "x", "id": 7},
    ]
    file = write(tmp_path / "math.jsonl", lines)
    made = import_gold(file, "inspect", options=Options(slice="level", system="Brief"))
    one, two, three, four = made.questions
    assert (one.id, one.slice, one.messages[0]["content"]) == ("7", "easy", "Brief")
    assert passes(one, " 4. ")
    assert (two.id, two.text) == ("math-2", "Hi")
    assert [passes(three, text) for text in ("A", "b", "c")] == [True, True, False]
    assert four.messages[2]["tool_calls"][0]["function"] == {
        "name": "look",
        "arguments": '{"city": "Rome"}',
    }
    assert reasons(made) == {
        "line 5": "choices: inspect's own template asks them",
        "line 6": "sandbox: the answer is a program's work",
        "line 7": "content of the kind image",
        "line 8": "no target",
        "line 9": "no input",
        "line 10": "the id '7' is used already",
    }
    assert made.notes == {"field difficulty": 1}


def test_inspects_other_files_and_fields(tmp_path):
    file = write(tmp_path / "q.csv", 'question,answer\n"One, two?",three\n')
    options = Options(prompt="Q: {{question}}", target="{{answer}}", check="exact", max_tokens=5)
    made = import_gold(file, "inspect", options=options)
    assert made.questions[0].text == "Q: One, two?"
    assert made.questions[0].max_tokens == 5
    assert not passes(made.questions[0], "Three")
    file = write(tmp_path / "q.json", [{"input": "x", "target": "y"}])
    assert len(import_gold(file, "inspect").questions) == 1
    (tmp_path / "bad.jsonl").write_text("{}\n{")
    with pytest.raises(GoldError, match=r"bad\.jsonl:2: not JSON"):
        import_gold(tmp_path / "bad.jsonl", "inspect")


# -- OpenAI evals ------------------------------------------------------------------------------


def test_openais_samples(tmp_path):
    chat = [{"role": "system", "content": "Sum"}, {"role": "user", "content": "1+1"}]
    lines = [
        {"input": chat, "ideal": "2"},
        {"input": "Old?", "ideal": ["yes", "sure"]},
        {"item": {"ticket": "Lost", "correct_label": "cards", "input": "Lost card", "id": "t1"}},
        {"input": chat},
        {"input": [*chat, {"role": "assistant", "content": "2"}], "ideal": "2"},
    ]
    made = import_gold(write(tmp_path / "s.jsonl", lines), "openai-evals")
    one, two, three = made.questions
    assert one.messages == chat
    assert passes(two, "Sure.")
    assert (three.id, three.text) == ("t1", "Lost card")
    found = reasons(made)
    assert found["line 4"] == "no target"
    assert "the last message is the assistant's" in found["line 5"]


def test_openais_registry_says_how_each_eval_is_scored(tmp_path):
    (tmp_path / "evals").mkdir()
    (tmp_path / "data").mkdir()
    line = {"input": "Capital of France?", "ideal": "Paris"}
    write(tmp_path / "data/s.jsonl", [line])
    write(tmp_path / "data/j.jsonl", [{"input": "JSON?", "ideal": '{"a": 1}'}])

    def basic(name, samples="s.jsonl", **arguments):
        return {
            "class": f"evals.elsuite.basic.{name.lower()}:{name}",
            "args": {"samples_jsonl": samples, **arguments},
        }

    registry = {
        "geo": {"id": "geo.v0", "metrics": ["accuracy"]},
        "geo.match": basic("Match"),
        "geo.includes": basic("Includes", ignore_case=True),
        "geo.json": basic("JsonMatch", "j.jsonl"),
        "geo.fuzzy": basic("FuzzyMatch"),
        "geo.model": basic("ModelBasedClassify"),
        "geo.gone": basic("Match", "absent.jsonl"),
    }
    made = import_gold(write(tmp_path / "evals/geo.yaml", registry), "openai-evals")
    match, includes, as_json = made.questions
    assert passes(match, "Paris, of course")
    assert not passes(match, "It is Paris")
    assert passes(includes, "it is PARIS")
    assert passes(as_json, '{"a": 1}')
    assert reasons(made) == {
        "geo.fuzzy": "class FuzzyMatch",
        "geo.model": "class ModelBasedClassify",
        "geo.gone": "samples 'absent.jsonl' are not beside it",
    }


def criterion(operation="eq", reference="{{ item.label }}", **more):
    one = {"type": "string_check", "name": "c", "input": "{{ sample.output_text }}"}
    return {**one, "operation": operation, "reference": reference, **more}


@pytest.mark.parametrize(
    ("one", "right", "wrong"),
    [
        (criterion(), "Cards", "cards"),
        (criterion("ne"), "else", "Cards"),
        (criterion("like"), "the Cards queue", "the cards queue"),
        (criterion("ilike"), "the cards queue", "fees"),
    ],
)
def test_openais_api_with_criteria_and_items(tmp_path, one, right, wrong):
    rows = [{"item": {"text": "Lost it", "label": "Cards"}}]
    template = [
        {"role": "developer", "content": "Name the queue"},
        {"role": "user", "content": {"type": "input_text", "text": "{{ item.text }}"}},
    ]
    found = {
        "eval": {"testing_criteria": [one]},
        "run": {
            "data_source": {
                "type": "responses",
                "input_messages": {"type": "template", "template": template},
                "source": {"type": "file_content", "content": rows},
            }
        },
    }
    (question,) = import_gold(write(tmp_path / "e.json", found), "openai-evals").questions
    assert question.text == "Lost it"
    assert passes(question, right)
    assert not passes(question, wrong)


def test_openais_other_criteria_are_named(tmp_path):
    def api(*criteria):
        source = {"type": "file_content", "content": [{"item": {"label": "x"}}]}
        template = {"template": [{"role": "user", "content": "Hi"}]}
        return {
            "testing_criteria": list(criteria),
            "data_source": {"source": source, "input_messages": template},
        }

    grader = {"type": "score_model", "name": "m"}
    made = import_gold(write(tmp_path / "a.json", api(criterion(), grader)), "openai-evals")
    assert reasons(made) == {"item 1": "criterion score_model"}
    other = criterion(input="{{ item.label }}")
    made = import_gold(write(tmp_path / "a.json", api(other)), "openai-evals")
    assert reasons(made) == {"item 1": "a criterion on something else than the answer"}
    stored = {"testing_criteria": [criterion()], "data_source": {"source": {"type": "file_id"}}}
    with pytest.raises(GoldError, match="has no items"):
        import_gold(write(tmp_path / "b.json", stored), "openai-evals")


# -- the command -------------------------------------------------------------------------------


def command(*words):
    return CliRunner().invoke(cli, ["--config", "configs/demo.yaml", "gold", "import", *words])


def test_the_command_writes_a_gold_set_and_says_what_is_missing(tmp_path):
    lines = [{"input": "a?", "target": "a"}, {"input": "b?", "target": "b", "choices": ["b"]}]
    file, to = write(tmp_path / "s.jsonl", lines), tmp_path / "gold" / "s.jsonl"
    done = command(str(file), "--from", "inspect", "--to", str(to))
    assert done.exit_code == 1
    assert "1 question(s) carried over to" in done.output
    assert "line 2: choices: inspect's own template asks them" in done.output
    assert [question.text for question in load_gold([to])] == ["a?"]

    again = command(str(file), "--from", "inspect", "--to", str(to))
    assert isinstance(again.exception, UsageError)
    whole = write(tmp_path / "whole.jsonl", lines[:1])
    words = (str(whole), "--from", "inspect", "--to", str(to), "--replace", "--json")
    done = command(*words)
    assert done.exit_code == 0
    assert json.loads(done.output) == {
        "questions": 1,
        "left_out": [],
        "reasons": {},
        "notes": {},
        "file": str(to),
    }


def test_a_dry_run_writes_nothing_and_a_gold_set_must_be_named(tmp_path):
    file = write(tmp_path / "s.jsonl", [{"input": "a?", "target": "a"}])
    to = tmp_path / "gold.jsonl"
    done = command(str(file), "--from", "inspect", "--to", str(to), "--dry-run")
    assert done.exit_code == 0
    assert "nothing is written" in done.output
    assert not to.exists()
    assert command(str(file), "--from", "inspect").exit_code == 2
    empty = write(tmp_path / "empty.jsonl", [])
    assert isinstance(command(str(empty), "--from", "inspect", "--dry-run").exception, GoldError)
