"""Sentences about pictures and recordings: what becomes of them, and what is asked."""

from typing import Any

import pytest

from agents.planner import revise
from moatelier.contracts import AnyProfile, AudioColumns, Columns, ImageColumns, ImageProfile
from moatelier.errors import InvalidRequest
from tests.agents import scenes
from tests.agents.media_scenes import (
    BOTH,
    DEFAULTS,
    DIGITS,
    FOLDERS,
    MOODS,
    NAMED,
    SHAPES,
    SHOTS,
    TOLD,
    UNNAMED,
    outcome,
    pictures,
    planned,
    questions,
    recordings,
)

WORDS = "word_accuracy"


def test_a_folder_of_classes_needs_a_goal_and_no_more() -> None:
    plan = planned("Learn to tell these pictures apart, at least 90 % right")
    assert (plan.modality.value, plan.kind.value, plan.method.value) == ("vision", "classification", "top_blocks")
    assert plan.base.value == "efficientnet-lite0" and plan.columns.value == Columns()
    assert "cat, dog" in plan.columns.reason and plan.name == "cifar"
    assert (plan.goal.value.metric, plan.goal.value.target) == ("accuracy", 0.9)
    assert plan.private.value == "allow" and "not searched" in plan.private.reason
    assert plan.private.source == plan.method.source == "default"


def test_recordings_with_transcripts_are_written_down() -> None:
    plan = planned("Learn to write down these digits, 98 % exact words, within 3 minutes", data=DIGITS)
    assert (plan.modality.value, plan.kind.value, plan.method.value) == ("audio", "transcription", "audio_lora")
    assert plan.base.value == "whisper-tiny.en"
    assert plan.columns.value == AudioColumns(audio="file", text="text", speaker="speaker")
    assert (plan.goal.value.metric, plan.goal.value.target) == ("exact_match", 0.98)
    assert plan.budget.value.seconds == 180 and plan.too_long.value == "drop"


@pytest.mark.parametrize(
    ("sentence", "metric", "target"),
    [
        ("Transcribe, WER at most 5 %", WORDS, 0.95),
        ("transcribe our calls with a WER of at most 5%", WORDS, 0.95),
        ("transcribe these with a word error rate below 8 %", WORDS, 0.92),
        ("wer <= 0.1", WORDS, 0.9),
        ("no more than 4% WER", WORDS, 0.96),
        ("at least 97 % word accuracy", WORDS, 0.97),
        ("97% accuracy", WORDS, 0.97),
        ("speech to text, 95 % of the words right", WORDS, 0.95),
        ("at least 9 of 10 words correct", WORDS, 0.9),
        ("98 % exact words", "exact_match", 0.98),
        ("exact match of 98%", "exact_match", 0.98),
        ("at most 5 % mistakes", WORDS, 0.95),
    ],
)
def test_how_good_a_transcript_must_be(sentence: str, metric: str, target: float) -> None:
    goal = planned(sentence, data=DIGITS).goal
    assert (goal.value.metric, goal.value.target) == (metric, target)


def test_a_word_error_rate_that_was_named_is_the_persons_own_goal() -> None:
    goal = planned("Transcribe, WER at most 5 %", data=DIGITS).goal
    assert goal.source == "user" and "WER at most 5 %" in goal.reason and "95 %" in goal.reason


@pytest.mark.parametrize(
    ("sentence", "data", "kind"),
    [
        ("transcribe, 95 %", BOTH, "transcription"),
        ("WER at most 10 %", BOTH, "transcription"),
        ("tell me the intent of each call, 90 % right", BOTH, "classification"),
        ("keyword spotting with 95 % accuracy", BOTH, "classification"),
        ("macro F1 of at least 80 %", BOTH, "classification"),
        ("predict intent, 90%", BOTH, "classification"),
        ("what is said in them? 95 %", BOTH, "transcription"),
        ("recognise emotions, 90 % right", MOODS, "classification"),
        ("95 % accuracy", MOODS, "classification"),
        ("95 % word accuracy for a speaker it has never heard", DIGITS, "transcription"),
        ("recognise the keywords, 95 %", NAMED, "classification"),
        ("transcribe the commands, 95 %", NAMED, "transcription"),
    ],
)
def test_what_is_told_of_a_recording(sentence: str, data: AnyProfile, kind: str) -> None:
    assert planned(sentence, data=data).kind.value == kind


@pytest.mark.parametrize("data", [BOTH, NAMED])
def test_what_is_to_be_told_is_asked_when_both_fit(data: AnyProfile) -> None:
    asked = questions("learn from these recordings, 95 % right", data=data)
    assert set(asked) == {"kind"} and asked["kind"].choices == ("transcription", "classification")
    for answer, kind in (("transcription", "transcription"), ("the second one", "classification")):
        assert planned("learn from these recordings, 95 % right", answer, data=data).kind.value == kind


@pytest.mark.parametrize(
    ("sentence", "data", "kind"),
    [
        ("Find pictures by their descriptions, recall@1 at least 60%", SHAPES, "retrieval"),
        ("Search our photos by text, at least 60% recall", SHAPES, "retrieval"),
        ("recall@1 of at least 60 %", SHAPES, "retrieval"),
        ("retrieve images by caption, 60 %", SHAPES, "retrieval"),
        ("match pictures with their captions, 60 %", SHAPES, "retrieval"),
        ("text-to-image retrieval, 60 %", SHAPES, "retrieval"),
        ("at least 90 % right", SHAPES, "classification"),
        ("sort these pictures by shape, 90 %", SHAPES, "classification"),
        ("Tell what is shown in these pictures, at least 80% accuracy", SHAPES, "classification"),
        ("macro F1 of at least 80 %", SHAPES, "classification"),
        ("learn these, 60 % right", TOLD, "retrieval"),
        ("find the picture that a sentence describes, 60 %", TOLD, "retrieval"),
        ("which image belongs to a caption? 60 % right", SHAPES, "retrieval"),
        ("find the image for each caption, 60 %", SHAPES, "retrieval"),
        ("find images by the caption, 60 %", SHAPES, "retrieval"),
        ("find the label of each picture, 80 %", SHAPES, "classification"),
        ("sort by label text, 90 %", SHAPES, "classification"),
    ],
)
def test_pictures_are_sorted_or_found_by_their_captions(sentence: str, data: AnyProfile, kind: str) -> None:
    plan = planned(sentence, data=data)
    assert plan.kind.value == kind and (plan.method.value == "contrastive") == (kind == "retrieval")
    columns = plan.columns.value
    assert isinstance(columns, ImageColumns) and isinstance(data, ImageProfile) and data.columns
    assert columns.image == data.columns.image
    assert (columns.caption, columns.label) == (
        (data.columns.caption, None) if kind == "retrieval" else (None, data.columns.label)
    )


@pytest.mark.parametrize(
    ("sentence", "metric", "target"),
    [
        ("recall@1 at least 60%", "recall_at_1", 0.6),
        ("Recall@1 >= 0.6", "recall_at_1", 0.6),
        ("bring recall@1 to 60 %", "recall_at_1", 0.6),
        ("recall at 1 of 60 %", "recall_at_1", 0.6),
        ("R@1 of at least 60 %", "recall_at_1", 0.6),
        ("at least 60% recall", "recall_at_1", 0.6),
        ("recall of 60 %", "recall_at_1", 0.6),
        ("find pictures by description, the right picture first in 60 %", "recall_at_1", 0.6),
        ("it finds the right picture first in 60 % of the searches", "recall_at_1", 0.6),
        ("60 % of them right", "recall_at_1", 0.6),
        ("60 % accuracy", "recall_at_1", 0.6),
        ("60 %", "recall_at_1", 0.6),
        ("recall@5 of at least 90 %", "recall_at_5", 0.9),
        ("the right picture among the first five in 90 %", "recall_at_5", 0.9),
        ("recall@1 of 100 %", "recall_at_1", 1.0),
    ],
)
def test_how_well_pictures_must_be_found(sentence: str, metric: str, target: float) -> None:
    goal = planned(sentence, data=TOLD).goal
    assert (goal.value.metric, goal.value.target) == (metric, target)


@pytest.mark.parametrize(
    ("sentence", "data", "field"),
    [
        ("find pictures by their descriptions", TOLD, "goal"),
        ("find pictures by captions, exact match of 90 %", TOLD, "goal"),
        ("find pictures by captions, macro F1 of 90 %", TOLD, "goal"),
        ("find pictures by captions, recall@10 of 90 %", TOLD, "goal"),
        ("sort the pictures, 90 % recall", SHAPES, "goal"),
        ("transcribe, 90 % recall", DIGITS, "goal"),
        ("find pictures by captions, 90 %", FOLDERS, "kind"),
        ("find pictures by captions, 90 %", SHOTS, "columns.target"),
        ("find pictures by captions with image_lora, 90 %", TOLD, "method"),
        ("sort the pictures by shape with contrastive, 90 %", SHAPES, "method"),
        ("sort these pictures, 90 %", TOLD, "columns.target"),
        ("predict the caption, 60 %", SHAPES, "kind"),
        ("tell what is shown in these pictures, 80 %", TOLD, "columns.target"),
    ],
)
def test_what_does_not_fit_the_search_for_pictures_is_asked(sentence: str, data: AnyProfile, field: str) -> None:
    assert field in questions(sentence, data=data)


def test_questions_about_the_search_for_pictures_are_answered() -> None:
    asked = questions("find pictures by their descriptions", data=TOLD)["goal"]
    assert asked.choices[1] == "recall@1 of at least 90 %"
    for answer in ("the second one", "90 %", "recall@1 90"):
        goal = planned("find pictures by their descriptions", answer, data=TOLD).goal.value
        assert (goal.metric, goal.target) == ("recall_at_1", 0.9)
    method = planned("find them by captions with image_lora, 90 %", "you decide", data=TOLD).method.value
    assert method == "contrastive"
    sorted_ = planned("find pictures by captions, 90 %", "classification", data=FOLDERS)
    assert sorted_.kind.value == "classification" and sorted_.method.value == "top_blocks"


def test_an_edited_search_stays_one() -> None:
    plan = planned("find pictures by their descriptions, recall@1 at least 60%", data=TOLD)
    assert plan.goal.source == "user"
    assert revise(plan, {"goal": "recall of 70 %"}, TOLD, DEFAULTS).goal.value.target == 0.7
    assert revise(plan, {"goal": {"metric": "recall_at_5"}}, TOLD, DEFAULTS).goal.value.metric == "recall_at_5"
    refused: list[dict[str, Any]] = [
        {"goal": {"metric": "accuracy"}},
        {"method": "top_blocks"},
        {"kind": "transcription"},
        {"columns": {"caption": None}},
        {"columns": {"label": "author"}},
        {"kind": "classification", "goal": {"metric": "accuracy"}, "method": "top_blocks"},
    ]
    for edits in refused:
        with pytest.raises(InvalidRequest):
            revise(plan, edits, TOLD, DEFAULTS)
    sort: dict[str, Any] = {"kind": "classification", "goal": {"metric": "accuracy"}, "method": "top_blocks"}
    other = revise(plan, {**sort, "columns": {"caption": None, "label": "author"}}, TOLD, DEFAULTS)
    assert other.columns.value == ImageColumns(image="file", label="author", group="author")


def test_who_speaks_is_a_label_like_any_other() -> None:
    columns = planned("Who is speaking? At least 90 % right.", data=DIGITS).columns.value
    assert columns == AudioColumns(audio="file", label="speaker")
    assert planned("predict the speaker, 90%", data=BOTH).columns.value == AudioColumns(audio="file", label="speaker")
    assert "columns.target" in questions("recognise the speakers, 90 % right", data=NAMED)


def test_columns_of_a_table_may_be_named() -> None:
    assert planned("90 % right", data=SHOTS).columns.value == ImageColumns(
        image="file", label="species", group="camera"
    )
    plan = planned("predict the weather, 90 %", data=SHOTS)
    assert plan.columns.value == ImageColumns(image="file", label="weather", group="camera")
    assert "weather" in plan.columns.reason
    asked = questions("90 % right", data=UNNAMED)
    assert set(asked) == {"columns.input", "columns.target"}
    plan = planned("90 % right", "1. a 2. b", data=UNNAMED)
    assert plan.columns.value == ImageColumns(image="a", label="b")


@pytest.mark.parametrize(
    ("sentence", "method"),
    [
        ("90 %, by LoRA", "image_lora"),
        ("90 %, use image_lora", "image_lora"),
        ("90 %, a linear probe is enough", "linear_probe"),
        ("90 %, top-blocks", "top_blocks"),
    ],
)
def test_methods_are_those_of_the_modality(sentence: str, method: str) -> None:
    plan = planned(sentence)
    assert plan.method.value == method and plan.method.source == "user"
    assert planned("95 % by LoRA", data=DIGITS).method.value == "audio_lora"


def test_a_method_of_another_kind_is_asked() -> None:
    assert questions("90 %, with QLoRA")["method"].choices[:3] == ("top_blocks", "image_lora", "linear_probe")
    assert planned("tune vit-b-32, 90 %").base.value == "vit-b-32"
    assert "base" in questions("tune whisper-large on these, 90 %", data=DIGITS)


@pytest.mark.parametrize(
    ("sentence", "data", "field"),
    [
        ("transcribe these, 90 %", FOLDERS, "modality"),
        ("classify the photos, 90 %", DIGITS, "modality"),
        ("caption the pictures, 90 %", FOLDERS, "kind"),
        ("translate the recordings, 90 %", DIGITS, "kind"),
        ("90 %, redact private data", FOLDERS, "private"),
        ("90 %, truncate what is too long", DIGITS, "too_long"),
        ("CER below 5 %", DIGITS, "goal"),
        ("character error rate below 5 %", DIGITS, "goal"),
        ("transcribe, macro F1 of 90 %", DIGITS, "goal"),
        ("transcribe them", DIGITS, "goal"),
        ("sort the pictures", FOLDERS, "goal"),
    ],
)
def test_asks_rather_than_guesses(sentence: str, data: AnyProfile, field: str) -> None:
    assert field in questions(sentence, data=data)


@pytest.mark.parametrize(
    ("messages", "data", "expected"),
    [
        (("transcribe these, 90 %", "yes, the pictures"), FOLDERS, {"modality": "vision"}),
        (("caption the pictures, 90 %", "yes"), FOLDERS, {"kind": "classification"}),
        (("90 %, redact private data", "allow it"), FOLDERS, {"private": "allow"}),
        (("90 %, truncate what is too long", "drop"), DIGITS, {"too_long": "drop"}),
        (("transcribe them", "WER at most 5 %"), DIGITS, {"kind": "transcription"}),
        (("transcribe them", "95"), DIGITS, {"kind": "transcription"}),
        (("sort the pictures", "92 %", "use LoRA"), FOLDERS, {"method": "image_lora"}),
    ],
)
def test_an_answer_continues_the_request(messages: tuple[str, ...], data: AnyProfile, expected: dict[str, Any]) -> None:
    plan = planned(*messages, data=data)
    assert {name: getattr(plan, name).value for name in expected} == expected


def test_examples_of_a_goal_for_transcripts_can_be_chosen() -> None:
    asked = questions("transcribe them", data=DIGITS)["goal"]
    assert asked.choices[1] == "word accuracy of at least 90 %"
    goal = planned("transcribe them", "the second one", data=DIGITS).goal.value
    assert (goal.metric, goal.target) == ("word_accuracy", 0.9)


def test_a_zip_of_pictures_and_sounds_is_asked_about_unless_the_words_say() -> None:
    sounds = recordings("mixed.zip", columns=AudioColumns(audio="f", text="t"), headers=("f", "t"))
    both: dict[str, Any] = {"data": pictures("mixed.zip"), "others": [sounds]}
    asked = questions("90 % right", **both)
    assert set(asked) == {"modality"} and asked["modality"].choices == ("the pictures", "the recordings")
    assert "1200 pictures and 1000 recordings" in asked["modality"].text
    assert planned("90 % right", "the recordings", **both).modality.value == "audio"
    assert planned("classify the images, 90 % right", **both).modality.value == "vision"
    assert planned("transcribe, WER at most 10 %", **both).modality.value == "audio"


def test_a_part_named_test_is_the_locked_test_unless_it_is_to_be_split_off() -> None:
    divided: dict[str, Any] = {"test": pictures(images=400), "test_file": "file-train"}
    plan = planned("90 % right", **divided)
    assert plan.test_file == plan.train_file
    assert any("400 pictures of its test part" in note for note in plan.notes)
    plan = planned("90 % right, split the test rows off", **divided)
    assert plan.test_file is None and not any("test part" in note for note in plan.notes)


def test_a_test_file_of_another_kind_is_asked_about() -> None:
    assert "holds text, not pictures" in questions("90 %", test=scenes.SUPPORT)["test_file"].text
    assert "test_file" in questions("95 %", data=DIGITS, test=MOODS)
    assert planned("95 %", data=DIGITS, test=DIGITS).test_file == "file-test"


@pytest.mark.parametrize("sentence", ["clips of 2 seconds, 90 % right", "the recordings of up to 3 seconds, 90 %"])
def test_the_length_of_recordings_is_no_limit_of_time(sentence: str) -> None:
    assert planned(sentence, data=DIGITS).budget.source == "default"


def test_an_edited_plan_stays_within_its_modality() -> None:
    plan = planned("transcribe, WER at most 5 %", data=DIGITS)
    assert revise(plan, {"goal": "WER at most 10 %"}, DIGITS, DEFAULTS).goal.value.target == 0.9
    assert revise(plan, {"kind": "classification", "goal": {"metric": "accuracy"}}, DIGITS, DEFAULTS)
    for edits in (
        {"goal": {"metric": "macro_f1"}},
        {"kind": "chat"},
        {"method": "lora"},
        {"base": "smollm2-135m-instruct"},
        {"columns": {"text": "nothing"}},
    ):
        with pytest.raises(InvalidRequest):
            revise(plan, edits, DIGITS, DEFAULTS)


@pytest.mark.parametrize("sentence", ["WER at most 5 %", "at most 5 % WER"])
def test_texts_have_no_word_error_rate(sentence: str) -> None:
    asked = scenes.questions(sentence)
    assert asked["goal"].text.startswith("I can measure accuracy, macro-F1 and exact match, not WER")


def test_no_sentence_breaks_the_planner() -> None:
    for words in ("", "90", "?", "transcribe classify caption", "the the the", "\u00e4" * 300):
        for data in (FOLDERS, SHOTS, TOLD, SHAPES, UNNAMED, DIGITS, MOODS, BOTH, NAMED):
            assert outcome(words, data=data)


@pytest.mark.parametrize(
    "sentence",
    [
        "Answer questions about these pictures, at least 60 % right",
        "Visual question answering on the photos, 70 %",
        "I want to ask about the pictures, 80 % accuracy",
        "questions about the images should be answered right in 75 %",
    ],
)
def test_questions_about_pictures_are_for_a_text_model_that_sees(sentence: str) -> None:
    made = planned(sentence, data=FOLDERS)
    assert (made.modality.value, made.kind.value, made.goal.value.metric) == ("imagetext", "chat", "exact_match")
    assert (made.method.value, made.base.value) == ("llava", "smollm2-135m-instruct")
    assert "a text model that sees" in made.modality.reason


def test_a_question_about_the_task_is_none_about_pictures() -> None:
    made = planned("sort the pictures, 90 %. One question: can you use 5 minutes at most?", data=FOLDERS)
    assert made.modality.value == "vision"


@pytest.mark.parametrize(
    ("sentence", "field", "offered"),
    [
        ("sort the pictures with llava, 90 %", "method", ("top_blocks", "image_lora", "linear_probe")),
        ("answer questions about the pictures with top blocks, 90 %", "method", ("llava",)),
        ("answer questions about the pictures, base model vit-b-32, 90 %", "base", ("smollm2-135m-instruct",)),
    ],
)
def test_what_such_a_task_is_not_learnt_by_is_asked_about(sentence: str, field: str, offered: tuple[str, ...]) -> None:
    asked = questions(sentence, data=FOLDERS)
    assert set(asked) == {field} and asked[field].choices == offered
