import base64
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from moatelier.contracts import AudioColumns, AudioFindings, CurationDecision, SplitName
from moatelier.errors import DataError, IntegrityError
from modalities.audio import data
from modalities.audio.checks import fit_window
from modalities.audio.data import AudioRow, find, open_sound, parse_rows, profile, read_rows, split, write_rows
from store import artifacts
from tests.sounding import sound_bytes, speech, tone

OWN: dict[SplitName, float] = {"train": 0.6, "dev": 0.1, "select": 0.1, "test": 0.2}
pytestmark = pytest.mark.usefixtures("home")


def decision(fractions: dict[SplitName, float] = OWN, **fields: object) -> CurationDecision:
    return CurationDecision.model_validate({"drop": {}, "fractions": fractions, "reasons": (), **fields})


def recordings(folder: Path, count: int = 12, speakers: int = 3, table: bool = True) -> Path:
    """Recordings of distinct sounds, said by speakers in turn, with a table."""
    folder.mkdir()
    lines = ["path,text,speaker,source,licence"]
    for number in range(count):
        (folder / f"{number:03}.wav").write_bytes(sound_bytes(speech(0.6, number)))
        lines.append(f"{number:03}.wav,word {number % 4},s{number % speakers},call {number // 2},CC0")
    if table:
        (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return folder


def zipped(folder: Path, to: Path) -> Path:
    with zipfile.ZipFile(to, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return to


def heard(rows: Sequence[AudioRow]) -> list[tuple[str | None, str | None]]:
    return [(row.target, row.speaker) for row in rows]


class TestReading:
    def test_a_folder_and_a_zip_with_a_table(self, tmp_path: Path) -> None:
        folder = recordings(tmp_path / "calls")
        rows = read_rows(folder, "calls", "transcript")
        assert len(rows) == 12 and rows[5].text == "word 1" and rows[5].label is None
        assert (rows[5].speaker, rows[5].source, rows[5].licence, rows[5].seconds) == ("s2", "call 2", "CC0", 0.6)
        assert artifacts.get_bytes(rows[5].audio) == (folder / "005.wav").read_bytes()
        again = read_rows(zipped(folder, tmp_path / "calls.zip"), "calls.zip", "transcript")
        assert [row.id for row in again] == [row.id for row in rows]
        assert np.allclose(open_sound(rows[0]).samples, speech(0.6, 0), atol=1e-4)

    def test_columns_may_be_named_and_labels_asked_for(self, tmp_path: Path) -> None:
        folder = recordings(tmp_path / "calls")
        rows = read_rows(folder, "calls", "label", AudioColumns(audio="path", label="source"))
        assert rows[2].label == "call 1" and rows[2].text is None and rows[2].speaker is None
        assert read_rows(folder, "calls", "label")[1].label == "word 1"
        with pytest.raises(DataError, match="no column 'said' to be the text"):
            read_rows(folder, "calls", "transcript", AudioColumns(audio="path", text="said"))
        with pytest.raises(DataError, match="No column is named as the transcript"):
            read_rows(folder, "calls", "transcript", AudioColumns(audio="path"))

    def test_names_like_those_of_spoken_digits(self, tmp_path: Path) -> None:
        for name in ("0_theo_3", "7_lucas_12", "stop_ann_0"):
            (tmp_path / f"{name}.wav").write_bytes(sound_bytes(speech(0.4, len(name))))
        rows = read_rows(tmp_path, "digits", "transcript")
        assert heard(rows) == [("zero", "theo"), ("seven", "lucas"), ("stop", "ann")]

    def test_folders_that_name_words(self, tmp_path: Path) -> None:
        for word in ("yes", "no", "turn_left"):
            (tmp_path / word).mkdir()
            for take in range(2):
                sound = sound_bytes(speech(0.4, take + len(word)))
                (tmp_path / word / f"ab12_nohash_{take}.wav").write_bytes(sound)
        rows = read_rows(tmp_path, "commands", "label")
        assert {row.label for row in rows} == {"yes", "no", "turn left"} and {row.speaker for row in rows} == {"ab12"}

    def test_parts_and_a_table_beside_its_files(self, tmp_path: Path) -> None:
        (tmp_path / "all").mkdir()
        for part in ("train", "test"):
            for word in ("a", "b"):
                place = tmp_path / "all" / part / word
                place.mkdir(parents=True)
                (place / "x.wav").write_bytes(sound_bytes(speech(0.3, len(part) + ord(word))))
        assert len(read_rows(tmp_path / "all", "all", "label", part="train")) == 2
        with pytest.raises(DataError, match="There are test, train"):
            read_rows(tmp_path / "all", "all", "label", part="dev")
        table = tmp_path / "t.csv"
        table.write_text("file,text\ntrain/a/x.wav,hello\ntest/b/x.wav,there\n")
        rows = read_rows(table, "t.csv", "transcript", beside=(tmp_path / "all", "all"))
        assert [row.text for row in rows] == ["hello", "there"] and not any(row.problem for row in rows)

    def test_data_uris(self, tmp_path: Path) -> None:
        uri = "data:audio/wav;base64," + base64.b64encode(sound_bytes(speech(0.3))).decode()
        (tmp_path / "t.csv").write_text(f'audio,text\n"{uri}",a\n"{uri}",b\nhttps://example.com/a.wav,c\n')
        rows = read_rows(tmp_path / "t.csv", "t.csv", "transcript")
        assert rows[0].path == "data URI" and rows[0].samples == rows[1].samples
        assert rows[2].problem is not None and "is a URL" in rows[2].problem.reason

    def test_rows_are_written_and_parsed(self, tmp_path: Path) -> None:
        rows = read_rows(recordings(tmp_path / "calls"), "calls", "transcript")
        written = write_rows(rows)
        assert json.loads(written.splitlines()[0])["speaker"] == "s0"
        back = parse_rows(written)
        assert [row.id for row in back] == [row.id for row in rows] and write_rows(back) == written
        assert data.locked_digest(back) == data.locked_digest(rows[::-1])
        artifacts.path(rows[0].audio).write_bytes(b"x")
        with pytest.raises(IntegrityError):
            open_sound(back[0])


class TestBadInput:
    def test_a_broken_recording_is_a_problem_of_its_row(self, tmp_path: Path) -> None:
        folder = recordings(tmp_path / "calls")
        (folder / "003.wav").write_bytes(b"This is a text file.")
        (folder / "004.wav").write_bytes(b"")
        (folder / "005.wav").write_bytes(sound_bytes(speech(0.6))[:9000])
        rows = read_rows(folder, "calls", "transcript")
        problems = {row.number: row.problem.reason for row in rows if row.problem}
        assert problems.keys() == {4, 5, 6} and rows[3].audio == ""
        assert "no recording" in problems[4] and "is empty" in problems[5] and "truncated" in problems[6]
        assert "calls: 003.wav" in rows[3].place or "003.wav" in rows[3].place

    def test_mostly_broken_recordings_are_refused_with_the_first(self, tmp_path: Path) -> None:
        folder = recordings(tmp_path / "calls", 4)
        for number in range(3):
            (folder / f"{number:03}.wav").write_bytes(b"junk")
        with pytest.raises(DataError, match="3 of 4 rows cannot be used; the first"):
            read_rows(folder, "calls", "transcript")

    def test_paths_that_lead_outside_and_cells_that_are_empty(self, tmp_path: Path) -> None:
        folder = recordings(tmp_path / "calls")
        lines = (folder / "index.csv").read_text().splitlines()
        lines[1] = "../../etc/passwd,a,s,c,"
        lines[2] = "001.wav,,s,c,"
        lines[3] = "none.wav,a,s,c,"
        (folder / "index.csv").write_text("\n".join(lines))
        rows = read_rows(folder, "calls", "transcript")
        reasons = [row.problem.reason for row in rows[:3] if row.problem]
        assert "leads out" in reasons[0] and "empty" in reasons[1] and "no such file" in reasons[2]

    @pytest.mark.parametrize(
        ("files", "told"),
        [
            ({"a.wav": 1, "b.wav": 1}, "Nothing says what is in the recordings"),
            ({"notes.txt": 0}, "There are no recordings"),
            ({"a.wav": 1, "index.csv": "file,length\na.wav,3\n"}, "No column names the recordings"),
            ({"a.csv": "file,text\nx,y\n", "b.csv": "file,text\nx,y\n"}, "several tables"),
        ],
    )
    def test_folders_that_tell_nothing(self, files: dict[str, str | int], told: str, tmp_path: Path) -> None:
        for name, content in files.items():
            text = content.encode() if isinstance(content, str) else sound_bytes(speech(0.3))
            (tmp_path / name).write_bytes(text)
        with pytest.raises(DataError, match=told):
            read_rows(tmp_path, "folder", "transcript")

    def test_a_single_recording_is_no_dataset(self, tmp_path: Path) -> None:
        (tmp_path / "a.wav").write_bytes(sound_bytes(speech(0.3)))
        with pytest.raises(DataError, match="neither a folder or zip of audio files"):
            read_rows(tmp_path / "a.wav", "a.wav", "transcript")


class TestFinding:
    def test_what_is_wrong_is_reported_by_row(self, tmp_path: Path) -> None:
        folder = recordings(tmp_path / "calls", 14)
        (folder / "001.wav").write_bytes((folder / "005.wav").read_bytes())  # same words
        same, _ = soundfile.read(folder / "007.wav", dtype="int16")
        (folder / "002.wav").write_bytes(sound_bytes(same, form="FLAC"))  # 7 in another format, other words
        (folder / "003.wav").write_bytes(sound_bytes(np.zeros(8000, np.float32)))
        (folder / "004.wav").write_bytes(sound_bytes(np.clip(tone(0.5, level=2), -1, 1)))
        (folder / "006.wav").write_bytes(sound_bytes(tone(0.05)))
        (folder / "008.wav").write_bytes(sound_bytes(tone(2.0, rate=8000), 8000))
        rows = read_rows(folder, "calls", "transcript")
        found = find(rows)
        assert found.exact_duplicates == (6,) and found.conflicting == (3, 8)
        assert set(found.clusters) == {(2, 6), (3, 8)}
        assert (found.silent, found.clipped, found.short) == ((4,), (5,), (7,))
        assert found.rates == {8000: 1, 16000: 13} and found.licences == {"CC0": 14}
        assert found.speakers == {"s0": 5, "s1": 5, "s2": 4} and found.labels == {}
        assert (
            found.window_s == 3.0
            and found.seconds["max"] == 2.0
            and found.seconds["total"] == pytest.approx(9.05, abs=0.1)
        )

    def test_what_does_not_fit_the_window(self, tmp_path: Path) -> None:
        folder = recordings(tmp_path / "calls")
        quiet = np.zeros(16_000, np.float32)
        (folder / "001.wav").write_bytes(sound_bytes(np.concatenate([quiet, tone(2.5), quiet, quiet])))
        (folder / "002.wav").write_bytes(sound_bytes(tone(3.5)))
        rows = read_rows(folder, "calls", "transcript")
        assert find(rows).window_s == 4.0 and find(rows).too_long == ()
        assert find(rows, window_s=3.0).too_long == (3,)
        words = find(rows, count_tokens=lambda text: 90 if text == "word 3" else 3)
        assert words.too_long == (4, 8, 12)

    def test_transcripts_that_do_not_fit_what_is_heard(self, tmp_path: Path) -> None:
        rows = read_rows(recordings(tmp_path / "calls"), "calls", "transcript")
        found = find(rows, likelihood=lambda row: -9.0 if row.number == 5 else -1.0 - row.number / 100)
        assert found.mismatched == (5,) and find(rows).mismatched == ()

    def test_a_test_set_of_its_own(self, tmp_path: Path) -> None:
        rows = read_rows(recordings(tmp_path / "calls"), "calls", "transcript")
        other = recordings(tmp_path / "other", 5)
        for number in range(5):
            (other / f"{number:03}.wav").write_bytes(sound_bytes(speech(0.6, 100 + number if number else 0)))
        locked = read_rows(other, "other", "transcript")
        assert find(rows, test_rows=locked).near_test == (1,)

    def test_data_that_cannot_be_a_dataset(self, tmp_path: Path) -> None:
        folder = recordings(tmp_path / "calls")
        for number in range(12):
            (folder / f"{number:03}.wav").write_bytes(sound_bytes(speech(0.6, 0)))
        with pytest.raises(DataError, match="are duplicates"):
            find(read_rows(folder, "calls", "transcript"))
        with pytest.raises(DataError, match="same target"):
            columns = AudioColumns(audio="path", label="licence")
            find(read_rows(recordings(tmp_path / "b"), "b", "label", columns))

    @pytest.mark.parametrize(
        ("seconds", "window"),
        [([0.5] * 9, 3.0), ([0.5] * 9 + [3.9], 4.5), ([2.0] * 999 + [29.0], 3.0), ([40.0], 30.0), ([], 30.0)],
    )
    def test_the_window_fits_nearly_all(self, seconds: list[float], window: float) -> None:
        assert fit_window(seconds) == window

    def test_a_profile_keeps_nothing(self, tmp_path: Path, home: Path) -> None:
        folder = recordings(tmp_path / "calls")
        (folder / "003.wav").write_bytes(b"junk")
        found = profile(zipped(folder, tmp_path / "calls.zip"), "calls.zip", "file-1")
        assert (found.format, found.recordings, found.transcripts, found.looked_at) == ("zip", 12, 12, 11)
        assert found.columns == AudioColumns(
            audio="path", text="text", speaker="speaker", source="source", licence="licence"
        )
        assert found.labels == {f"word {i}": 3 for i in range(4)} and found.speakers == {"s0": 4, "s1": 4, "s2": 4}
        assert found.seconds["p50"] == 0.6 and len(found.problems) == 1
        assert not list((home / "artifacts").glob("*/*"))


class TestSplitting:
    def made(self, count: int, speakers: int, label: bool = False, sources: int = 0) -> list[AudioRow]:
        return [
            AudioRow(
                number,
                samples=f"{number:064}",
                text=None if label else f"words {number}",
                label="ab"[number % 2] if label else None,
                speaker=f"s{number % speakers}" if speakers else None,
                source=f"c{number % sources}" if sources else None,
                file="calls",
            )
            for number in range(1, count + 1)
        ]

    def divided(self, rows: list[AudioRow], **fields: object) -> dict[SplitName, list[AudioRow]]:
        return split(rows, nothing(rows), decision(**fields), 0)  # type: ignore[arg-type]  # fields of a contract

    def test_with_many_speakers_each_split_has_its_own(self) -> None:
        rows = self.made(400, 20)
        found = self.divided(rows)
        voices = [{row.speaker for row in part} for part in found.values()]
        assert sum(map(len, voices)) == 20 and data.kept_apart(rows, nothing(rows)) == "all"
        assert {name: len(part) for name, part in found.items()} == {"train": 240, "dev": 40, "select": 40, "test": 80}

    def test_with_few_only_the_test_is_kept_apart(self) -> None:
        for label in (False, True):
            rows = self.made(400, 4, label)
            found = self.divided(rows, left_out_of_train=(1, 2, 3))
            assert data.kept_apart(rows, nothing(rows)) == "test"
            others = {row.speaker for name in ("train", "dev", "select") for row in found[name]}  # type: ignore[index]
            assert {row.speaker for row in found["test"]}.isdisjoint(others) and len(others) == 3
            assert len(found["test"]) == 100 and len(found["dev"]) == pytest.approx(37, abs=1)
            assert not {1, 2, 3} & {row.number for row in found["train"]}
            if label:
                assert {row.label for row in found["select"]} == {"a", "b"}

    def test_with_one_or_none_nothing_is(self) -> None:
        for rows in (self.made(100, 1), self.made(100, 0)):
            assert data.kept_apart(rows, nothing(rows)) == "none"
            assert {name: len(part) for name, part in self.divided(rows).items()}["test"] == 20

    def test_sources_and_equal_samples_tie_too(self) -> None:
        rows = self.made(300, 0, sources=30)
        found = split(rows, nothing(rows, clusters=((1, 2), (3, 200))), decision(), 3)
        where = {row.number: name for name, part in found.items() for row in part}
        assert where[1] == where[2] == where[31] == where[32] and where[3] == where[200]

    def test_a_test_set_of_its_own_is_taken_as_it_is(self) -> None:
        rows, locked = self.made(100, 3), self.made(10, 1)
        found = split(rows, nothing(rows), decision({"train": 0.8, "dev": 0.1, "select": 0.1}), 0, locked)
        assert found["test"] == locked and {row.speaker for row in found["dev"]} == {"s0", "s1", "s2"}

    def test_it_is_the_same_whatever_the_order(self) -> None:
        rows = self.made(200, 4)
        once, again = self.divided(rows), self.divided(rows[::-1])
        assert {n: [r.number for r in p] for n, p in once.items()} == {
            n: [r.number for r in p] for n, p in again.items()
        }


def nothing(rows: Sequence[AudioRow], **fields: object) -> AudioFindings:
    return AudioFindings.model_validate({"rows": len(rows), "labels": {}, "window_s": 3.0, **fields})
