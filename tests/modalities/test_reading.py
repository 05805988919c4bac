from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moatelier.errors import DataError
from modalities.text.reading import Table, read_table

SAMPLE = "text,label\nWhere is my parcel?,track\nI want my money back,refund\n"


def table(tmp_path: Path, data: bytes | str, name: str = "rows.csv") -> Table:
    path = tmp_path / "upload"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_table(path, name)


def refusal(tmp_path: Path, data: bytes | str, name: str = "rows.csv") -> DataError:
    with pytest.raises(DataError) as caught:
        table(tmp_path, data, name)
    assert caught.value.where.startswith(name) and caught.value.remedy
    return caught.value


# ---------------------------------------------------------------- what is read


def test_quoted_newlines_and_commas_keep_rows_and_lines_apart(tmp_path: Path) -> None:
    found = table(tmp_path, 'text,label\n"a, b\nc",x\n"say ""hi""",y\n')
    assert [(r.number, r.line, r.values) for r in found.records] == [
        (1, 2, {"text": "a, b\nc", "label": "x"}),
        (2, 4, {"text": 'say "hi"', "label": "y"}),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    found = table(tmp_path, SAMPLE.replace(",", delimiter))
    assert found.columns == ("text", "label") and found.records[0].values["label"] == "track"


def test_commas_in_text_do_not_hide_a_semicolon(tmp_path: Path) -> None:
    found = table(tmp_path, "text;label\nyes, but, no;a\nwell, then;b\nplain;a\n")
    assert found.columns == ("text", "label")


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_unicode_encodings_read_the_same(tmp_path: Path, codec: str) -> None:
    text = "text,label\nKöln, „schön“,x\n".replace("Köln, ", "Köln ") + "where is my parcel,y\n" * 5
    found = table(tmp_path, text.encode(codec))
    assert found.records[0].values["text"] == "Köln „schön“"


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("cp1252", "Où est mon café préféré?\nJe voudrais être remboursé\n"),
        ("cp1252", "It costs £5 and I’d like – please – a parcel\nwhere is my card and when will I get it\n"),
        ("cp1252", "Wo bleibt meine Bestellung für München?\nIch möchte das Geld zurück, schöne Grüße\n"),
        ("cp1250", "Můj balík nedorazil žádný kde je\nChci vrátit zboží děkuji\nZrušte prosím můj účet\n"),
        ("cp1251", "Где мой заказ\nХочу вернуть товар\nКогда придет посылка\n"),
    ],
)
def test_a_legacy_encoding_is_guessed_and_the_guess_is_stated(tmp_path: Path, codec: str, text: str) -> None:
    found = table(tmp_path, ("text\n" + text).replace(",", "").encode(codec))
    assert [record.values["text"] for record in found.records] == text.replace(",", "").splitlines()
    assert found.encoding.startswith(f"{codec} (confidence 0.")


def test_blank_lines_empty_rows_and_trailing_delimiters_are_skipped(tmp_path: Path) -> None:
    found = table(tmp_path, "text,label,\n\na,x,\n,,\nb,y,\n\n")
    assert found.columns == ("text", "label")
    assert [(r.number, r.line) for r in found.records] == [(1, 3), (3, 5)]


def test_json_lines(tmp_path: Path) -> None:
    found = table(tmp_path, '{"a": 1}\n\n{"b": "x\u2028y"}\n', "rows.jsonl")
    assert found.format == "jsonl" and found.columns == ("a", "b")
    assert [(r.number, r.line, r.values) for r in found.records] == [(1, 1, {"a": 1}), (2, 3, {"b": "x\u2028y"})]


def test_the_format_is_told_by_content_when_the_name_says_nothing(tmp_path: Path) -> None:
    assert table(tmp_path, '{"a": 1}\n', "upload").format == "jsonl"
    assert table(tmp_path, SAMPLE, "upload").format == "csv"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode)), st.sampled_from(["a.csv", "a.jsonl"]))
def test_any_bytes_are_read_or_refused_but_never_crash(tmp_path: Path, data: bytes, name: str) -> None:
    try:
        assert table(tmp_path, data, name).records
    except DataError as error:
        assert error.where and error.remedy


# ---------------------------------------------------------------- what is refused


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_table(tmp_path / "none.csv", "none.csv")
    assert caught.value.where == "none.csv"


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_an_empty_file(tmp_path: Path, data: bytes) -> None:
    assert "empty" in refusal(tmp_path, data).what


def test_a_header_without_rows(tmp_path: Path) -> None:
    assert "no data rows" in refusal(tmp_path, "text,label\n").what


def test_a_spreadsheet(tmp_path: Path) -> None:
    assert "Excel" in refusal(tmp_path, b"PK\x03\x04" + bytes(range(200))).what


def test_random_binary(tmp_path: Path) -> None:
    refusal(tmp_path, bytes((i * 7919) % 256 for i in range(4000)))


def test_damaged_utf8_names_the_line_instead_of_guessing_another_encoding(tmp_path: Path) -> None:
    data = ("text,label\n" + "schöne Grüße,x\n" * 5).encode() + b"caf\xe9,y\n"
    error = refusal(tmp_path, data)
    assert "0xe9" in error.what and error.where == "rows.csv, line 7"


def test_an_encoding_nobody_can_tell(tmp_path: Path) -> None:
    error = refusal(tmp_path, "注文,配送\n返品,返品\n".encode("shift_jis"))
    assert "encoding cannot be told" in error.what and "UTF-8" in error.remedy


def test_a_ragged_row(tmp_path: Path) -> None:
    error = refusal(tmp_path, SAMPLE + "one, two,x\n")
    assert error.what == "The row has 3 fields where the header has 2."
    assert error.where == "rows.csv, row 3, line 4"


def test_an_open_quote_is_placed_where_it_opens(tmp_path: Path) -> None:
    error = refusal(tmp_path, SAMPLE + '"never closed,x\nb,y\n')
    assert error.where == "rows.csv, row 3, line 4" and "quote" in error.remedy


@pytest.mark.parametrize(
    "text",
    [
        "Where is my parcel,track\nStill no parcel,track\nRefund me,refund\n",
        "Where did you leave my parcel?,a\nNo idea at all,b\n",
    ],
)
def test_no_header(tmp_path: Path, text: str) -> None:
    error = refusal(tmp_path, text)
    assert "no header" in error.what and error.where == "rows.csv, line 1"


def test_a_header_in_the_middle(tmp_path: Path) -> None:
    error = refusal(tmp_path, SAMPLE + "text,label\na,b\n")
    assert "repeats the header" in error.what and error.where == "rows.csv, row 3, line 4"


def test_a_column_twice_and_a_column_without_a_name(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a,a\n1,2\n").where == "rows.csv, line 1, field a"
    assert "Column 2" in refusal(tmp_path, "a,\n1,2\n").what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"a": 1}\n{"a": \n', "not valid JSON"),
        ('{"a": 1}\n[1]\n', "a JSON list, not an object"),
        ('{"a": 1}\n"a"\n', "a JSON str, not an object"),
        ('{"a": 1}\n{"a": ' + "9" * 5000 + "}\n", "not valid JSON"),
    ],
)
def test_broken_json_lines(tmp_path: Path, text: str, what: str) -> None:
    error = refusal(tmp_path, text, "rows.jsonl")
    assert what in error.what and error.where == "rows.jsonl, row 2, line 2"


def test_a_json_array(tmp_path: Path) -> None:
    assert "one JSON array" in refusal(tmp_path, '[{"a": 1}]', "rows.json").what
