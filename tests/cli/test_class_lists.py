"""Class names in the files that people have."""

import json

import pytest

from resnetlab.cli.class_lists import read_class_list
from resnetlab.config import ConfigError

NAMES = ("cat", "dog house", "Äffle")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "cat\ndog house\n\nÄffle\n"),
        ("a.txt", "\ufeffcat\r\ndog house\r\nÄffle"),
        ("a.txt", "0 cat\n1 dog house\n2 Äffle\n"),
        ("a.txt", "2: Äffle\n0: cat\n1: dog house\n"),
        ("a.txt", "1\tcat\n2\tdog house\n3\tÄffle\n"),
        ("a.names", "0,cat\n1,dog house\n2,Äffle"),
        ("a.json", json.dumps(NAMES)),
        ("a.json", json.dumps({"1": "dog house", "0": "cat", "2": "Äffle"})),
        ("a.json", json.dumps({"dog house": 1, "cat": 0, "Äffle": 2})),
        ("a.json", json.dumps({"0": ["n1", "cat"], "1": ["n2", "dog house"], "2": ["n3", "Äffle"]})),
        ("config.json", json.dumps({"model_type": "resnet", "id2label": dict(enumerate(NAMES))})),
        ("a.json", json.dumps({"class_to_idx": {"cat": 0, "dog house": 1, "Äffle": 2}})),
        ("a.json", json.dumps([{"id": 2, "name": "dog house"}, {"id": 1, "name": "cat"}, {"id": 3, "name": "Äffle"}])),
        ("a.yaml", "# classes\n- cat\n- dog house\n- Äffle\n"),
        ("a.yml", "---\nnames:\n  0: cat\n  1: dog house   # two words\n  2: 'Äffle'\n"),
        ("data.yaml", "path: ../x\nnc: 3\nnames: [cat, \"dog house\", 'Äffle']\n"),
        ("data.yaml", "train: a/b\nnames:\n- cat\n- dog house\n- Äffle\n"),
        ("a.yaml", "cat: 0\ndog house: 1\nÄffle: 2\n"),
        ("a.csv", "cat\ndog house\nÄffle\n"),
        ("a.csv", "id,name\n1,dog house\n0,cat\n2,Äffle\n"),
        ("a.csv", "0;cat\n1;dog house\n2;Äffle\n"),
        ("a.csv", 'name,supercategory\ncat,animal\n"dog house",thing\nÄffle,animal\n'),
        ("a.tsv", "class\tid\ncat\t0\ndog house\t1\nÄffle\t2\n"),
    ],
)
def test_lists_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text, "utf-8")
    assert read_class_list(tmp_path / name) == NAMES


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0 cat\n0 dog\n", ("0 cat", "0 dog")),
        ("3 doors\n5 doors\n", ("3 doors", "5 doors")),
        ("n01440764 tench, Tinca tinca\n", ("n01440764 tench, Tinca tinca",)),
        ("0\n1\n2\n", ("0", "1", "2")),
    ],
)
def test_numbers_that_number_nothing_are_part_of_the_name(tmp_path, text, names):
    (tmp_path / "a.txt").write_text(text)
    assert read_class_list(tmp_path / "a.txt") == names


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", "{", "Expecting property name"),
        ("a.json", "3", "it holds int, not a list"),
        ("a.json", '{"a": "b"}', "an object with the keys a"),
        ("a.json", '{"0": "a", "2": "b"}', "its numbers do not run from 0 or 1 without a gap"),
        ("a.json", '[["a", 1]]', "is no name"),
        ("a.json", '[{"x": 1}]', "its objects have no name, but x"),
        ("a.yaml", "names: *other\n", "only simple YAML is read"),
        ("a.yaml", "- a\n-\n  b: 3\n", "only a simple YAML list is read"),
        ("a.yaml", "nothing\n", "not understood: 'nothing'"),
        ("a.yaml", "", "it is empty"),
        ("a.csv", "a,b\nc,d\n", "2 of its columns are text and 0 numbers"),
        ("a.csv", "a,b\nc\n", "its lines have different numbers of columns"),
        ("a.csv", "", "it is empty"),
        ("a.csv", 'name\n"cat\ndog\n', "unexpected end of data"),
        ("a.yaml", 'names: ["cat, dog]\n', "a list in brackets must end on its line"),
        ("a.yaml", "names: [cat, dog #1]\n", "a list in brackets must end on its line"),
        ("a.yaml", 'names: ["cat" dog]\n', "a list in brackets must end on its line"),
        ("a.yaml", '- "cat\n- dog\n', "text in quotes must end on its line"),
    ],
)
def test_other_files_are_refused_with_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_class_list(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: no list of class names (")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", 'names: ["traffic light, red", "dog #1", \'cat\'\'s "eye"\', car]  # four\n'),
        ("a.yaml", "names: ['traffic light, red', \"dog #1\", 'cat''s \"eye\"', car,]\n"),
        ("a.yaml", '- "traffic light, red"\n- \'dog #1\'  # one\n- "cat\'s \\"eye\\""\n- car\n'),
        ("a.yaml", '"traffic light, red": 0\n"dog #1": 1\n\'cat\'\'s "eye"\': 2\ncar: 3\n'),
        ("a.csv", 'id,name\n0,"traffic light, red"\n1, "dog #1"\n2,"cat\'s ""eye"""\r\n3,car\n'),
    ],
)
def test_quotes_keep_commas_and_signs_in_a_name(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_class_list(tmp_path / name) == ("traffic light, red", "dog #1", 'cat\'s "eye"', "car")


def test_a_line_break_in_quotes_stays_in_the_name(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'name\n"cat\nsmall"\ndog\n')
    assert read_class_list(tmp_path / "a.csv") == ("cat\nsmall", "dog")


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    for path, message in [(tmp_path / "a.txt", "save the file as UTF-8"), (tmp_path, "Is a directory")]:
        with pytest.raises(ConfigError, match=message) as caught:
            read_class_list(path)
        assert str(path) in str(caught.value)
