"""From folders, zips and tables of images to rows, findings and splits; what is odd is told by place."""

import base64
import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageEnhance, ImageOps

from moatelier.contracts import CurationDecision, ImageColumns
from moatelier.errors import DataError, IntegrityError
from modalities import files
from modalities.text.reading import parse_table
from modalities.vision import data
from modalities.vision.data import find, parse_rows, profile, read_rows, split, write_rows
from modalities.vision.duplicates import look_at, near_any, near_clusters
from modalities.vision.rows import guess_columns
from store import artifacts
from tests.modalities.vision.pictures import COLOURS, drawn, encoded


def classes(folder: Path, per_class: int = 4, first: int = 0) -> Path:
    for label in COLOURS:
        (folder / label).mkdir(parents=True)
        for seed in range(first, first + per_class):
            (folder / label / f"{seed}.png").write_bytes(encoded(drawn(label, seed)))
    return folder


def packed(folder: Path, inside: str = "") -> Path:
    file = folder.with_suffix(".zip")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, inside + path.relative_to(folder).as_posix())
    return file


def named(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


PNG = encoded(drawn("red", 0))


@pytest.mark.usefixtures("home")
class TestReading:
    def test_folders_name_the_classes(self, tmp_path: Path) -> None:
        rows = read_rows(classes(tmp_path / "pets"), "pets")
        assert [row.label for row in rows] == ["blue"] * 4 + ["green"] * 4 + ["red"] * 4
        assert rows[0].place == "pets, row 1: blue/0.png" and rows[-1].number == 12
        assert artifacts.get_bytes(rows[0].image) == (tmp_path / "pets/blue/0.png").read_bytes()
        assert data.open_image(rows[0]).tobytes() == drawn("blue", 0).tobytes()

    @pytest.mark.parametrize("inside", ["", "pets/"])
    def test_a_zip_is_the_folder_it_was_packed_from(self, tmp_path: Path, inside: str) -> None:
        folder = classes(tmp_path / "pets")
        (folder / "red" / ".DS_Store").write_bytes(b"noise")
        (folder / "__MACOSX" / "red").mkdir(parents=True)
        (folder / "__MACOSX" / "red" / "0.png").write_bytes(b"noise")
        (folder / "readme.txt").write_text("about")
        rows = read_rows(packed(folder, inside), "pets.zip")
        assert [(row.label, row.image) for row in rows] == [(row.label, row.image) for row in read_rows(folder, "pets")]

    def test_parts_are_no_classes(self, tmp_path: Path) -> None:
        classes(tmp_path / "pets" / "train", 3)
        classes(tmp_path / "pets" / "test", 2, first=50)
        train, test = (read_rows(tmp_path / "pets", "pets", part=part) for part in ("train", "test"))
        assert (len(train), len(test)) == (9, 6) and {row.label for row in train} == set(COLOURS)
        with pytest.raises(DataError, match="no folder 'dev'") as caught:
            read_rows(tmp_path / "pets", "pets", part="dev")
        assert caught.value.remedy == "There are test, train."

    def test_a_table_within_tells_what_is_what(self, tmp_path: Path) -> None:
        folder = tmp_path / "pets"
        (folder / "shots").mkdir(parents=True)
        for seed in range(4):
            (folder / "shots" / f"{seed}.png").write_bytes(encoded(drawn("red", seed)))
        lines = ["file,label,caption,source,licence"]
        lines += [f"shots/{i}.png,{'ab'[i % 2]},A picture number {i},cam{i // 2},CC0" for i in range(4)]
        (folder / "index.csv").write_text("\n".join(lines))
        rows = read_rows(packed(folder, "wrapped/"), "pets.zip")
        assert [(row.label, row.group, row.licence, row.line) for row in rows] == [
            ("a", "cam0", "CC0", 2),
            ("b", "cam0", "CC0", 3),
            ("a", "cam1", "CC0", 4),
            ("b", "cam1", "CC0", 5),
        ]
        assert rows[2].caption == "A picture number 2"
        only = read_rows(folder, "pets", ImageColumns(image="file", caption="caption"))
        assert only[0].label is None and only[0].caption
        beside = read_rows(folder / "index.csv", "index.csv", beside=(folder, "pets"))
        assert [row.image for row in beside] == [row.image for row in rows]

    def test_tables_named_like_parts(self, tmp_path: Path) -> None:
        folder = tmp_path / "pets"
        folder.mkdir()
        for name in ("train", "test"):
            (folder / f"{name}.png").write_bytes(encoded(drawn("red", len(name))))
            (folder / f"{name}.csv").write_text(f"image,label\n{name}.png,x\n")
        [row] = read_rows(folder, "pets", part="test")
        assert row.path == "test.png"
        with pytest.raises(DataError, match=r"several tables: test\.csv, train\.csv"):
            read_rows(folder, "pets")
        assert profile(folder, "pets", "file-1").images == 2

    def test_a_table_alone_may_hold_data_uris_and_no_paths(self, tmp_path: Path) -> None:
        uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
        table = tmp_path / "t.csv"
        table.write_text(f'image,label\n"{uri}",a\n"{uri}",b\nother.png,a\n')
        rows = read_rows(table, "t.csv")
        assert [row.problem is None for row in rows] == [True, True, False]
        assert rows[0].path == "data URI" and rows[2].problem and "no files came with it" in rows[2].problem.reason

    @pytest.mark.parametrize(
        ("cell", "told"),
        [
            ("../secret.png", "leads out of the folder"),
            ("/etc/passwd", "leads out of the folder"),
            ("a\\\\b.png", "leads out of the folder"),
            ("https://example.com/a.png", "is a URL"),
            ("none.png", "no such file"),
            ("", "The value is empty"),
            ("link.png", "leads out of the folder"),
            ("text.png", "no image of a known format"),
        ],
    )
    def test_a_row_with_an_odd_image_is_a_problem_with_its_place(self, tmp_path: Path, cell: str, told: str) -> None:
        folder = tmp_path / "pets"
        folder.mkdir()
        (tmp_path / "secret.png").write_bytes(PNG)
        (folder / "link.png").symlink_to(tmp_path / "secret.png")
        (folder / "text.png").write_text("not an image")
        (folder / "good.png").write_bytes(PNG)
        (folder / "t.csv").write_text(f"image,label\ngood.png,a\ngood.png,b\n{cell},b\n")
        [*_, row] = read_rows(folder, "pets")
        assert row.problem is not None and told in row.problem.reason and row.problem.remedy
        assert (row.problem.row, row.problem.line, row.problem.field) == (3, 4, "image")

    def test_mostly_broken_files_are_refused_with_the_first(self, tmp_path: Path) -> None:
        folder = classes(tmp_path / "pets", 1)
        for label in ("red", "blue"):
            (folder / label / "0.png").write_bytes(PNG[:300])
        with pytest.raises(DataError, match="2 of 3 rows cannot be used; the first: The image is damaged"):
            read_rows(folder, "pets")

    def test_reading_can_be_watched_and_stopped(self, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        read_rows(classes(tmp_path / "pets", 1), "pets", watch=lambda done, total: seen.append((done, total)))
        assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.usefixtures("home")
class TestRefusing:
    @pytest.mark.parametrize("path", ["../red/a.png", "/red/a.png", "red\\..\\..\\a.png"])
    def test_archives_whose_paths_lead_outside(self, tmp_path: Path, path: str) -> None:
        with pytest.raises(DataError, match="leads out of the folder"):
            read_rows(named(tmp_path / "a.zip", {path: PNG}), "a.zip")

    def test_links_in_archives(self, tmp_path: Path) -> None:
        link = zipfile.ZipInfo("red/a.png")
        link.external_attr = 0o120777 << 16
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(link, "/etc/passwd")
            archive.writestr("red/b.png", PNG)
        rows = read_rows(tmp_path / "a.zip", "a.zip")
        assert rows[0].problem is not None and "leads out" in rows[0].problem.reason

    def test_bombs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "a.zip"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("red/a.png", b"\0" * 50_000)
            archive.writestr("red/b.png", PNG)
        monkeypatch.setattr("modalities.vision.images.MAX_BYTES", 20_000)
        rows = read_rows(file, "a.zip")
        assert rows[0].problem is not None and "The image file has more" in rows[0].problem.reason
        monkeypatch.setattr(files, "MAX_TOTAL", 40_000)
        with pytest.raises(DataError, match="archive's files have more than"):
            read_rows(file, "a.zip")
        monkeypatch.setattr(files, "MAX_FILES", 1)
        with pytest.raises(DataError, match="more than 1 files"):
            read_rows(file, "a.zip")

    def test_a_header_that_lies_about_the_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("red/a.png", b"\0" * 50_000)
            archive.writestr("red/b.png", PNG)
        true, false = (50_000).to_bytes(4, "little"), (100).to_bytes(4, "little")
        (tmp_path / "a.zip").write_bytes(stream.getvalue().replace(true, false))
        monkeypatch.setattr("modalities.vision.images.MAX_BYTES", 20_000)
        [lying, _] = read_rows(tmp_path / "a.zip", "a.zip")
        assert lying.problem is not None

    def test_two_files_of_one_name(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("red/a.png", PNG)
            archive.writestr("red/./a.png", PNG)
        with pytest.raises(DataError, match="two files of one name"):
            read_rows(tmp_path / "a.zip", "a.zip")

    def test_damage_in_one_member_is_that_rows_problem(self, tmp_path: Path) -> None:
        file = packed(classes(tmp_path / "pets", 2))
        content = bytearray(file.read_bytes())
        at = content.index(b"blue/0.png") + 60
        content[at : at + 40] = b"\xff" * 40
        file.write_bytes(content)
        rows = read_rows(file, "pets.zip")
        assert [row.number for row in rows if row.problem] == [1]
        assert rows[0].problem is not None and "cannot be unpacked" in rows[0].problem.reason

    @pytest.mark.parametrize(
        ("name", "content", "match"),
        [
            ("a.txt", b"hello", "neither a folder or zip"),
            ("a.zip", b"hello", "neither a folder or zip"),
            ("a.zip", b"PK\x03\x04broken", "no zip archive"),
            ("a.csv", b"x,y\n1,2\n", "No column names the images"),
            ("a.csv", b"image,note\n1,2\n", "No column names the images"),
        ],
    )
    def test_what_is_no_image_data(self, tmp_path: Path, name: str, content: bytes, match: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=match):
            read_rows(tmp_path / name, name)

    def test_folders_without_images_or_classes(self, tmp_path: Path) -> None:
        (tmp_path / "pets").mkdir()
        with pytest.raises(DataError, match="There are no images"):
            read_rows(tmp_path / "pets", "pets")
        (tmp_path / "pets" / "a.png").write_bytes(PNG)
        with pytest.raises(DataError, match="No folders name the classes"):
            read_rows(tmp_path / "pets", "pets")
        with pytest.raises(DataError, match="There is no table"):
            read_rows(tmp_path / "pets", "pets", ImageColumns(image="a", label="b"))

    def test_unknown_columns(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("image,label\na.png,x\n")
        with pytest.raises(DataError, match="no column 'kind' to be the label"):
            read_rows(tmp_path / "t.csv", "t.csv", ImageColumns(image="image", label="kind"))
        with pytest.raises(DataError, match="No column is named as label or caption"):
            read_rows(tmp_path / "t.csv", "t.csv", ImageColumns(image="image"))


def test_columns_are_guessed_by_their_names() -> None:
    table = parse_table(b"Filename,Class,License,Photographer\na.png,x,CC0,me\n", "t.csv")
    assert guess_columns(table) == ImageColumns(image="Filename", label="Class", licence="License")


class TestNear:
    def variants(self) -> dict[str, Image.Image]:
        image = drawn("red", 7, 96)
        return {
            "itself": image,
            "compressed": Image.open(io.BytesIO(encoded(image, "JPEG", quality=40))).convert("RGB"),
            "larger": image.resize((288, 288), Image.Resampling.BICUBIC),
            "smaller": image.resize((48, 48), Image.Resampling.BOX),
            "brighter": ImageEnhance.Brightness(image).enhance(1.1),
            "shifted": image.crop((1, 1, 96, 96)),
        }

    def test_the_same_picture_is_found_again(self) -> None:
        looks = [look_at(image) for image in self.variants().values()]
        strangers = [look_at(drawn(label, seed, 96)) for label in COLOURS for seed in range(20, 50)]
        assert near_clusters([*looks, *strangers]) == [list(range(len(looks)))]
        assert near_any(looks, strangers) == [] and near_any(strangers, looks) == []
        assert near_any([*strangers, *looks], looks[1:2]) == list(range(len(strangers), len(strangers) + len(looks)))

    def test_a_near_copy_of_a_locked_image_is_found_though_an_equal_one_stands_before_it(self) -> None:
        itself, near = (look_at(self.variants()[name]) for name in ("itself", "compressed"))
        assert near_any([itself, near], [itself]) == [0, 1]

    def test_pixels_are_equal_however_they_are_encoded(self) -> None:
        image = drawn("red", 7)
        again = Image.open(io.BytesIO(encoded(image, "BMP"))).convert("RGB")
        assert look_at(again) == look_at(image)
        assert look_at(image.resize((32, 128))).pixels != look_at(image).pixels

    def test_blank_is_one_colour_whatever_colour_it_is(self) -> None:
        noisy = Image.effect_noise((64, 64), 2).convert("RGB")
        shaded = ImageOps.grayscale(Image.linear_gradient("L")).convert("RGB")
        images = (Image.new("RGB", (9, 9), "teal"), noisy, shaded, drawn("red", 1))
        assert [look_at(image).blank for image in images] == [True, True, False, False]


def decision(**fields: Any) -> CurationDecision:
    usual: dict[str, Any] = {"drop": {}, "reasons": ()}
    return CurationDecision(**usual | {"fractions": {"train": 0.4, "dev": 0.2, "select": 0.2, "test": 0.2}} | fields)


@pytest.mark.usefixtures("home")
class TestFindings:
    def odd(self, tmp_path: Path) -> Path:
        folder = classes(tmp_path / "pets", 6)
        (folder / "red" / "copy.bmp").write_bytes(encoded(drawn("red", 0), "BMP"))
        (folder / "red" / "near.jpg").write_bytes(encoded(drawn("red", 1), "JPEG", quality=60))
        (folder / "green" / "stolen.png").write_bytes(encoded(drawn("red", 2)))
        (folder / "green" / "tiny.png").write_bytes(encoded(drawn("green", 77).resize((8, 40))))
        (folder / "blue" / "blank.png").write_bytes(encoded(Image.new("RGB", (64, 64), "navy")))
        (folder / "blue" / "broken.png").write_bytes(PNG[:200])
        return folder

    def test_facts(self, tmp_path: Path) -> None:
        rows = read_rows(self.odd(tmp_path), "pets")
        by_path = {row.path: row.number for row in rows}
        found = find(rows)
        assert found.labels == {"blue": 7, "green": 8, "red": 8} and found.rows == 24
        assert found.exact_duplicates == (by_path["red/copy.bmp"],)
        assert set(found.conflicting) == {by_path["green/stolen.png"], by_path["red/2.png"]}
        assert {frozenset(cluster) for cluster in found.clusters} == {
            frozenset({by_path["red/0.png"], by_path["red/copy.bmp"]}),
            frozenset({by_path["red/1.png"], by_path["red/near.jpg"]}),
            frozenset({by_path["red/2.png"], by_path["green/stolen.png"]}),
        }
        assert found.tiny == (by_path["green/tiny.png"],) and found.blank == (by_path["blue/blank.png"],)
        assert [issue.row for issue in found.problems] == [by_path["blue/broken.png"]]
        assert found.sizes == {"min": 8.0, "p50": 64.0, "p95": 64.0, "max": 64.0}

    def test_splits_keep_clusters_and_groups_together_and_come_back(self, tmp_path: Path) -> None:
        rows = read_rows(self.odd(tmp_path), "pets")
        found = find(rows)
        divided = split(rows, found, decision(drop={found.blank[0]: "blank"}), 3)
        where = {row.number: name for name, part in divided.items() for row in part}
        assert len(where) == 22 and all(len({where[n] for n in cluster}) == 1 for cluster in found.clusters)
        assert {row.label for row in divided["test"]} == set(COLOURS)
        assert split(rows[::-1], found, decision(drop={found.blank[0]: "blank"}), 3) == divided
        lines = write_rows(divided["train"])
        back = parse_rows(lines)
        assert write_rows(back) == lines and [row.id for row in back] == [row.id for row in divided["train"]]
        assert b"pets" not in lines and b".png" not in lines, "rows name images by digest"
        assert data.open_image(back[0]).size == data.open_image(divided["train"][0]).size

    def test_a_separate_test_set_is_compared_and_checked(self, tmp_path: Path) -> None:
        rows = read_rows(classes(tmp_path / "pets", 5), "pets")
        later = classes(tmp_path / "later", 1, first=90)
        (later / "red" / "seen.jpg").write_bytes(encoded(drawn("red", 3), "JPEG", quality=70))
        locked = read_rows(later, "later")
        found = find(rows, test_rows=locked)
        assert [rows[n - 1].path for n in found.near_test] == ["red/3.png"]
        assert split(rows, found, decision(), 0, locked)["test"] == locked
        assert data.locked_digest(locked) == data.locked_digest(locked[::-1]) != data.locked_digest(rows)
        shutil.move(later / "blue", later / "violet")
        with pytest.raises(DataError, match="label 'violet' never stands in the training file"):
            data.check(rows, read_rows(later, "later"))
        (later / "red" / "seen.jpg").write_bytes(PNG[:99])
        with pytest.raises(DataError, match="A test row cannot be used: The image is damaged"):
            find(rows, test_rows=read_rows(later, "later"))

    def test_rows_that_make_no_dataset_are_refused(self, tmp_path: Path) -> None:
        folder = tmp_path / "pets"
        for label in ("cat", "Cat"):
            (folder / label).mkdir(parents=True)
            for seed in range(3):
                (folder / label / f"{seed}.png").write_bytes(
                    encoded(drawn("red", seed + len(label) * (label == "cat")))
                )
        with pytest.raises(DataError, match="differ only in case"):
            data.check(read_rows(folder, "pets"))
        shutil.rmtree(folder / "Cat")
        with pytest.raises(DataError, match="Every row has the same target, 'cat'"):
            find(read_rows(folder, "pets"))
        for label in ("dog", "cow"):
            shutil.copytree(folder / "cat", folder / label)
        with pytest.raises(DataError, match="differ, 3 by what the eye sees"):
            find(read_rows(folder, "pets"))

    def test_the_report_says_what_became_of_them(self, tmp_path: Path) -> None:
        found = find(read_rows(self.odd(tmp_path), "pets"))
        told = data.report(found, decision(drop={found.blank[0]: "blank"}), {})
        assert (told.rows_read, told.rows_kept, told.near_duplicate_clusters) == (24, 22, 3)

    def test_an_artifact_that_changed_is_refused(self, tmp_path: Path) -> None:
        [row, *_] = read_rows(classes(tmp_path / "pets", 1), "pets")
        artifacts.path(row.image).write_bytes(b"other")
        with pytest.raises(IntegrityError):
            data.open_image(row)


def test_a_profile_looks_and_keeps_nothing(home: Path, tmp_path: Path) -> None:
    folder = TestFindings().odd(tmp_path)
    found = profile(packed(folder), "pets.zip", "file-1")
    assert (found.format, found.images, found.looked_at, found.parts) == ("zip", 24, 23, ())
    assert found.labels == {"blue": 8, "green": 8, "red": 8} and found.columns is None
    assert [issue.reason[:20] for issue in found.problems] == ["The image is damaged"]
    assert not (home / "artifacts").exists()
