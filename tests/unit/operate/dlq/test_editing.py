"""A dead letter is edited as a document: what is left as it is stays byte for byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flux.core.text import escape
from flux.operate.dlq.editing import changes, from_document, to_document, unedited, with_header
from flux.operate.dlq.replay_plan import Edit
from unit.support.operate_support import dead_letter, headers_of

texts = st.binary(max_size=20) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
styles = st.sampled_from([{}, {"separators": (",", ":")}, {"ensure_ascii": False}, {"indent": 2}, {"indent": 3}])
written = st.builds(lambda value, style: json.dumps(value, **style).encode("utf-8", "surrogatepass"), values, styles)
bare = st.sampled_from(
    [b'{"a":1,"a":2}', b"[1.10]", b"[1e400]", b"{\r\n}", b"[" * 2000, b"[" + b"9" * 5000 + b"]", b""]
)


@given(st.none() | texts, st.none() | texts | written | bare, st.lists(st.tuples(st.text(), st.none() | texts)))
@example(b"k", b"\xff", [("a", b"1"), ("a", None), ("a", b"\xff")])
def test_what_is_left_as_it_is_stays_byte_for_byte(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    headers = [pair for pair in headers if not pair[0].startswith("flux-")]
    message = dead_letter([*headers, *headers_of()[1:]], key, value).message  # type: ignore[arg-type]
    edit = from_document(to_document(message), message)
    assert edit == unedited(message) == Edit(key, value, tuple(headers))
    assert changes(unedited(message), edit) == ""


def test_no_character_changes_how_the_document_is_shown() -> None:
    message = dead_letter(value="\x1b[31m\x85\u202e".encode()).message
    assert escape(to_document(message)) == to_document(message)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a":1,"b":"\xc3\xa9"}', b'{"a":2,"b":"\xc3\xa9"}'),
        (b'{"a": 1, "b": "\\u00e9"}', b'{"a": 2, "b": "\\u00e9"}'),
        (b'{\n  "a": 1\n}', b'{\n  "a": 2\n}'),
    ],
)
def test_edited_json_is_written_as_it_was(before: bytes, after: bytes) -> None:
    message = dead_letter(value=before).message
    document = json.loads(to_document(message))
    document["value"]["json"]["a"] = 2
    assert from_document(json.dumps(document), message).value == after


def test_json_can_be_given_for_any_value() -> None:
    message = dead_letter(value=b"text").message
    assert (
        from_document('{"key": null, "value": {"json": {"a": "é"}}, "headers": []}', message).value
        == '{"a":"é"}'.encode()
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON: "),
        ("[" * 100_000, "not JSON: too deep"),
        ("[]", "expected an object"),
        ('{"key": null, "value": null}', "expected an object"),
        ('{"key": 1, "value": null, "headers": []}', "key is 1"),
        ('{"key": null, "value": [1], "headers": []}', "value is"),
        ('{"key": null, "value": {"base64": "?"}, "headers": []}', "value is"),
        ('{"key": null, "value": null, "headers": {}}', "headers are"),
        ('{"key": null, "value": null, "headers": [["flux-due", "1"]]}', "flux's own"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_document(text, dead_letter().message)


def test_a_header_is_set_in_its_place_or_removed() -> None:
    edit = Edit(None, None, (("a", b"1"), ("b", b"2"), ("b", None), ("c", b"3")))
    assert with_header(edit, "b", "x").headers == (("a", b"1"), ("b", b"x"), ("c", b"3"))
    assert with_header(edit, "d", "x").headers[-1] == ("d", b"x")
    assert with_header(edit, "b", None).headers == (("a", b"1"), ("c", b"3"))
    with pytest.raises(ValueError, match="flux's own"):
        with_header(edit, "flux-due", "1")


def test_changes_are_named() -> None:
    edit = Edit(b"k", b"v", ())
    assert changes(edit, Edit(b"k", None, (("a", None),))) == "value, headers"
